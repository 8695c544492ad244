"""Loads modules of a consumer as they were released, and blank ones for the rest of it.

Entered by the child process only. A module named as real runs unmodified from the released file.
Every other module of the consumer, the packages above the real ones and those of `BLANK` are blank,
so that no `__init__.py` pulls in a whole serving engine. A test gives single names of blank modules a
value with `Consumer.given`.
"""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import pathlib
import sys

import blank

# Third parties that a connector imports and that are large, need an accelerator, or are not used.
BLANK = frozenset({
    "cachetools", "httpx", "huggingface_hub", "librt", "prometheus_client", "psutil", "sortedcontainers", "torch_npu",
    "torchair", "torchvision", "tqdm", "transformers", "triton", "uvicorn", "fastapi", "yaml", "ray", "nvtx",
    "orjson", "pydantic", "setproctitle", "cupy", "pybase64", "starlette", "vllm"})


class Blanks(importlib.abc.Loader):
    """Makes blank modules."""

    def create_module(self, spec):
        return blank.Module(spec.name)

    def exec_module(self, module):
        pass


class Consumer(importlib.abc.MetaPathFinder):
    """The modules below one folder, which holds the packages of one released file."""

    def __init__(self, folder, real=()):
        self.folder = pathlib.Path(folder)
        self.own = {path.name.partition(".")[0] for path in self.folder.iterdir()}
        self.real = set(real)
        self.blanks = set()
        sys.meta_path.insert(0, self)

    def find_spec(self, name, _path=None, _target=None):
        top = name.partition(".")[0]
        if name in self.real:
            return self.released(name)
        if top in self.own or (top in BLANK and not installed(top)) or name.startswith("torch."):
            self.blanks.add(name)
            spec = importlib.machinery.ModuleSpec(name, Blanks(), is_package=True)
            spec.submodule_search_locations = []
            return spec
        return None

    def released(self, name):
        path = self.folder.joinpath(*name.split("."))
        inside = path / "__init__.py"
        if inside.is_file():
            return importlib.util.spec_from_file_location(name, inside,
                                                          submodule_search_locations=[str(path)])
        file = path.with_suffix(".py")
        if not file.is_file():
            raise ModuleNotFoundError(f"{name} is not in this release", name=name)
        return importlib.util.spec_from_file_location(name, file)

    def load(self, *names):
        """The last of these modules; all of them are real from now on."""
        self.real.update(names)
        return [importlib.import_module(name) for name in names][-1]

    def given(self, name, **values):
        """The blank module of that name, with some of its names defined."""
        module = importlib.import_module(name)
        for key, value in values.items():
            setattr(module, key, value)
        return module


def installed(top):
    """Whether a third party is there after all; blank finders are asked last here."""
    return any(finder.find_spec(top, None) is not None for finder in sys.meta_path
               if not isinstance(finder, Consumer) and hasattr(finder, "find_spec"))
