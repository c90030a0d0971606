"""Side by side with other indexing tools. They live in `.venv-peers`, an environment of their own;
modules named `child*` run there and import nothing of the product."""
