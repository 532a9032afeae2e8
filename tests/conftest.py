"""Options of the suite."""


def pytest_addoption(parser):
    parser.addoption(
        "--all-dtypes", action="store_true", help="every dtype of every library, JAX's too"
    )
