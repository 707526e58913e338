"""A module of the job."""


def greeting(name: str) -> str:
    return f"hello {name}"
