"""What an error says to the user: one message with the remedy and an exit status, or nothing but its traceback."""

from __future__ import annotations

import re

BUSY = 69  # EX_UNAVAILABLE of sysexits.h: another process is training the run


def explain(error: Exception) -> tuple[str | None, int]:
    """The message and exit status of an error that the suite foresees; None for one that deserves its traceback.

    Compares names of types, so that no module is imported only to be compared with.
    """
    mistakes = {"DataError", "RecipeError", "RunError", "ResultError", "AnalysisError", "MisconfigurationException"}
    failures = {"TrainingDivergedError", "MiscountError", "LeaseLostError"}
    names = {cls.__name__ for cls in type(error).__mro__}
    if "RunBusyError" in names:
        return str(error), BUSY
    if "ArgumentError" in names:
        return parse_message(str(error)), 2
    if names & mistakes:
        return str(error), 2
    if names & failures:
        return str(error), 1
    return None, 1


def parse_message(text: str) -> str:
    """jsonargparse's message, `without_noise` and with a remedy."""
    found = re.search(r"class_path '([\w.]+)':\s+Option '\w+' is not accepted", text)
    if found:
        part = "data" if found[1].startswith("datamodules.") else "model"
        remedy = f"`python -m benchmarks fit --{part}.help {found[1]}` lists what it accepts."
    else:
        remedy = "`--print_config` after a recipe that is right shows every key there is, `--help` what they mean."
    value = re.search(r"Given value: (.*)", text)  # where one of several types was wanted
    message = without_noise(text)
    if value and not re.search(rf"value: {re.escape(value[1])}\s*$", message, re.MULTILINE):
        message = re.sub(r'^(Parser key "[\w.]+")', lambda key: f"{key[1]} (={value[1]})", message)
    return f"{message}\n{remedy}"


def without_noise(text: str) -> str:
    """A message without the types that jsonargparse tried and the values it was given."""
    noise = ("Does not validate", "Subtypes:", "Errors:", "Given value", "- Expected a <class 'NoneType'>")
    lines = [line for line in text.splitlines() if not line.strip().startswith(noise)]
    return lines[0].strip().removeprefix("- ") if len(lines) == 1 else "\n".join(lines)
