"""Things that are there and do nothing: modules, classes and values for what a connector imports and
a test does not use.

A blank module has every attribute; each is a class that can be derived from, called, subscripted and
used as a decorator, which gives back what it decorates.
"""

import types


class Kind(type):
    """The type of blank classes."""

    def __getattr__(cls, name):
        return attribute(f"{cls.__module__}.{cls.__name__}.{name}", name)

    def __getitem__(cls, _):
        return cls

    def __iter__(cls):
        return iter(())

    def __bool__(cls):
        return False


class Blank(metaclass=Kind):
    """A blank value; also what blank classes derive from."""

    def __new__(cls, *arguments, **_):
        alone = len(arguments) == 1 and isinstance(arguments[0], (types.FunctionType, type))
        if alone and "blank" in cls.__dict__:
            return arguments[0]
        return super().__new__(cls)

    def __init__(self, *_, **__):
        pass

    def __init_subclass__(cls, **_):
        super().__init_subclass__()

    def __getattr__(self, name):
        return attribute(name, name)

    def __call__(self, *arguments, **_):
        alone = len(arguments) == 1 and isinstance(arguments[0], (types.FunctionType, type))
        return arguments[0] if alone else Blank()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def __bool__(self):
        return False


class Module(types.ModuleType):
    """A blank module."""

    __path__ = []

    def __getattr__(self, name):
        found = attribute(f"{self.__name__}.{name}", name)
        setattr(self, name, found)
        return found


def attribute(dotted, name):
    """A new blank class, of that name."""
    if name.startswith("__"):
        raise AttributeError(dotted)
    return Kind(name, (Blank,), {"blank": True, "__module__": dotted.rpartition(".")[0]})
