"""Every function of upstream's binding against ours: names, order, defaults.

`signatures.json` was read from the docstrings of both wheels: parameters in order, `argN` where
upstream gives them no name, and their defaults. `absent.txt` lists what of 0.3.13 is not there; all
of 0.3.7 is.
"""

import inspect
import json
import pathlib

from harness.report import expect

FOLDER = pathlib.Path(__file__).resolve().parent
OLD, NEW = "0.3.7.post2", "0.3.13.post1"
# Members upstream has for itself; `setup` of 0.3.13 shows no parameters.
UNSHOWN = {"store.MooncakeDistributedStore.setup"}


def table(version):
    return json.loads((FOLDER / "signatures.json").read_text(encoding="utf-8"))[version]


def absent():
    """Names that are not there, each with the reason."""
    lines = (FOLDER / "absent.txt").read_text(encoding="utf-8").splitlines()
    found = dict(line.split(None, 1) for line in lines)
    expect(len(found) == len(lines) and all(found.values()), "absent.txt: a name and a reason each")
    return found


def ours(name):
    """Our function of a dotted name, None without one."""
    import mooncake.engine
    import mooncake.store
    module, *rest = name.split(".")
    found = getattr(mooncake, module)
    for part in rest:
        found = getattr(found, part, None)
    return found


def complaints(name, wanted):
    """How our function differs from what upstream's callers may rely on."""
    found = ours(name)
    if found is None:
        return ["is not there"]
    parameters = list(inspect.signature(found).parameters.values())
    if parameters and parameters[0].name == "self":
        parameters = parameters[1:]
    wrong = []
    if not inspect.getdoc(found):
        wrong.append("has no docstring")
    named = {parameter.name: parameter for parameter in parameters}
    for place, (wanted_name, default) in enumerate(wanted):
        if wanted_name.startswith("*"):
            kinds = [p.kind for p in parameters]
            wrong += [] if inspect.Parameter.VAR_POSITIONAL in kinds else ["takes no *args"]
            continue
        if wanted_name.startswith("arg") and wanted_name[3:].isdigit():
            if place >= len(parameters):
                wrong.append(f"takes no argument {place + 1}")
                continue
            parameter = parameters[place]
        elif wanted_name not in named:
            wrong.append(f"takes no {wanted_name}")
            continue
        else:
            parameter = named[wanted_name]
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY \
                    and parameters.index(parameter) != place:
                wrong.append(f"{wanted_name} is not argument {place + 1}")
        wrong += default_complaints(wanted_name, parameter, default)
    return wrong + too_many(parameters, wanted)


def default_complaints(name, parameter, default):
    if default is None:
        return []
    if parameter.default is inspect.Parameter.empty:
        return [f"{name} has no default"]
    # A config of None is what a fresh ReplicateConfig is.
    if default == "ReplicateConfig()":
        return [] if parameter.default is None else [f"{name} has another default"]
    return [] if repr(parameter.default) == default else [f"{name} = {parameter.default!r}"]


def too_many(parameters, wanted):
    """What upstream's callers do not know must have a default."""
    names = {name for name, _ in wanted}
    return [f"{parameter.name} has no default"
            for parameter in parameters[len(wanted):]
            if parameter.default is inspect.Parameter.empty and parameter.name not in names
            and parameter.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD,
                                   inspect.Parameter.KEYWORD_ONLY)]


def check_all(names):
    wrong = [f"{name} {what}" for name, wanted in names.items()
             for what in complaints(name, wanted)]
    expect(not wrong, "; ".join(wrong))
    return f"{len(names)} functions"


def all_of_old():
    """Nothing of 0.3.7 is missing or different."""
    return check_all(table(OLD))


def known_of_new():
    """What is there of 0.3.13 is as there; the rest is exactly what absent.txt says."""
    wanted, missing = table(NEW), absent()
    there = {name: parameters for name, parameters in wanted.items()
             if name not in missing and name not in UNSHOWN}
    wrong = [name for name in missing if ours(name) is not None or name not in wanted]
    expect(not wrong, f"absent.txt is wrong about {wrong}")
    return check_all(there)


def documented(kind):
    """(name, function) of the public methods of a class, without properties."""
    return [(name, member) for name, member in inspect.getmembers(kind, inspect.isroutine)
            if not name.startswith("_") and not hasattr(object, name)]


def docstrings_have_the_signature():
    """help() of a method begins with the call as it can be written: every name and every default."""
    import mooncake.engine as engine
    import mooncake.store as store
    kinds = (engine.TransferEngine, engine.SharedSegment, store.MooncakeDistributedStore, store.BufferPool,
             store.BufferLease, store.ReplicaDescriptor, store.MooncakeHostMemAllocator)
    wrong, count = [], 0
    functions = [pair for kind in kinds for pair in documented(kind)]
    functions += [(name, getattr(store, name)) for name in
                  ("bind_to_numa_node", "get_alloc_func_addr", "get_free_func_addr")]
    for name, function in functions:
        count += 1
        told = " ".join((inspect.getdoc(function) or "").split())
        parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
        # `setup` has two forms, and a second argument of `unregister_buffer` is only taken.
        parameters = parameters[:{"setup": 8, "unregister_buffer": 1}.get(name)]
        wanted = [shown(parameter) for parameter in parameters]
        call = f"{name}({', '.join(wanted)})"
        if not told.replace("=None, *, file_name", "=None, file_name=None").startswith(call):
            wrong.append(f"{call}: {told[:120]}")
    expect(not wrong, "; ".join(wrong))
    return f"{count} functions"


def shown(parameter):
    """A parameter as docstrings have it; of a config the default that it means."""
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"*{parameter.name}"
    if parameter.default is inspect.Parameter.empty or parameter.name != "engine" \
            and not isinstance(parameter.default, (int, str, type(None))):
        return parameter.name
    default = "ReplicateConfig()" if parameter.name == "config" else repr(parameter.default)
    return f"{parameter.name}={default}".replace("'", '"')


def members_of_enumerations():
    from mooncake.engine import Read, TransferEngine, TransferNotify, TransferOpcode, Write
    from mooncake.store import ObjectDataType, ReplicateConfig, SoftPinAction
    expect((int(TransferOpcode.Read), int(TransferOpcode.Write)) == (0, 1), "opcodes")
    expect(TransferOpcode(1) is Write and Read.name == "Read" and Read.value == 0, "members")
    expect(set(TransferOpcode.__members__) == {"Read", "Write"}, "__members__")
    expect(TransferEngine.TransferOpcode is TransferOpcode, "the member of TransferEngine")
    expect([int(action) for action in SoftPinAction] == [0, 1, 2], "SoftPinAction")
    names = ("UNKNOWN KVCACHE TENSOR WEIGHT SAMPLE ACTIVATION GRADIENT OPTIMIZER_STATE METADATA"
             " GENERAL").split()
    expect([(one.name, int(one)) for one in ObjectDataType] == [(name, at) for at, name
                                                                in enumerate(names)], "ObjectDataType")
    config = ReplicateConfig()
    expect(config.data_type is ObjectDataType.UNKNOWN, "the data type of a new config")
    config.data_type = ObjectDataType.TENSOR
    expect(config.data_type is ObjectDataType.TENSOR, "the data type that was set")
    note = TransferNotify("a", "b")
    note.msg = "c"
    expect((note.name, note.msg, TransferNotify().name) == ("a", "c", ""), "TransferNotify")


TESTS = (all_of_old, known_of_new, docstrings_have_the_signature, members_of_enumerations)
