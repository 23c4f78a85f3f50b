"""Models made elsewhere, brought into our model directories."""
