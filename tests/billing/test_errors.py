import importlib
import inspect
import pickle
import pkgutil

import pytest

from billing import errors

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)]


def make(kind: type[Exception]) -> Exception:
    if kind.__init__ is Exception.__init__:
        return kind("why")
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return kind("why")
    return kind(*(7 if p.annotation == "int" else f"<{p.name}>" for p in parameters))


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_crosses_a_process_boundary(kind: type[Exception]) -> None:
    error = make(kind)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), copy.args) == (str(error), error.args)
    assert str(error)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_error_has_one_root_and_stands_in_the_tree(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.BillingError) != issubclass(kind, errors.ChainError)
    assert kind.__name__ in (errors.__doc__ or "")


def test_the_package_exports_every_error_of_its_modules() -> None:
    modules = [importlib.import_module(f"billing.errors.{each.name}") for each in pkgutil.iter_modules(errors.__path__)]
    named = {name for module in modules for name in vars(module) if name.endswith("Error") and name[0] != "_"}
    assert named == set(errors.__all__) == {kind.__name__ for kind in CLASSES}
