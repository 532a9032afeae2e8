"""The operators, one for each file; `kronops.operators.diagonal` is the one to read first."""
