"""What is run and what came out: recipes, claims, runs, results and tables."""

from importlib.util import find_spec
from pathlib import Path


def check_packages() -> None:
    """Refuse to go on when `models` or `datamodules` would come from elsewhere than this checkout.

    Raises:
        ImportError: another package of that name is found first, or none.
    """
    checkout = Path(__file__).resolve().parent.parent
    for name in ("models", "datamodules"):
        spec = find_spec(name)
        found = Path(spec.origin).resolve().parent if spec and spec.origin else None
        if found != checkout / name:
            raise ImportError(
                f"the package `{name}` is {found or 'missing'}, it must be {checkout / name}: run from {checkout}, or "
                f"install the suite there with `pip install -e .`, and uninstall the other `{name}`."
            )


check_packages()
