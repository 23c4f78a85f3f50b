"""Ends a build whose torch is not of the wanted kind: `python check_torch.py cpu`, or cu130."""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

wanted = sys.argv[1]
package = find_spec("torch")
assert package is not None and package.origin is not None
cuda = runpy.run_path(str(Path(package.origin).with_name("version.py")))["cuda"]
found = "cpu" if cuda is None else "cu" + cuda.replace(".", "")
if found != wanted:
    sys.exit(
        f"torch is built for {found}, wanted is {wanted}: give an index that has it "
        f"(--build-arg TORCH_INDEX_URL=URL), or take this one (--build-arg TORCH_BUILD={found})"
    )
