"""Operations are counted with the kind they are of."""

from __future__ import annotations

import pytest

from benchmarks.profiles import kind_of


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::addmm", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_softmax", "softmax"),
        ("aten::linalg_vector_norm", "optimiser"),
        ("aten::native_layer_norm_backward", "normalisation"),
        ("aten::bernoulli_", "random_numbers"),
        ("aten::index_select", "moving"),
        ("aten::mul_", "element_wise"),
        ("aten::sum", "other"),
    ],
)
def test_kinds(operation: str, kind: str) -> None:
    assert kind_of(operation) == kind
