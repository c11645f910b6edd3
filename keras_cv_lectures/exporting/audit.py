"""What is inside a `.tflite` file: its operators, and whether a phone without TensorFlow can run all of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import keras

from keras_cv_lectures.errors import ModelError

# Builtin by name only: these read variables that a converted file does not carry values for.
_VARIABLES = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")
_CONVERTER_ERROR = re.compile(r'fused\["\w+:", "([^"@]+)[^"]*"\][^\n]*?\'(?:tf|tfl)\.(\w+)\' op is neither')


def operators(path: str | Path) -> dict[str, int]:
    """Operators of a `.tflite` file and how often each occurs, over all subgraphs, in alphabetical order.

    Custom operators appear as "CUSTOM:NAME"; TensorFlow operators that need the Flex delegate as "CUSTOM:FlexNAME".

    Raises:
        ModelError: the file is not a TensorFlow Lite file.
    """
    from ai_edge_litert import schema_py_generated as schema

    data = Path(path).read_bytes()
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise ModelError(f"{path} is not a TensorFlow Lite file. Export it again with kcvl export --format tflite.")
    model = schema.Model.GetRootAs(data, 0)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]

    def name_of(code) -> str:
        # Old files have the code in a byte, newer ones in an integer; the larger one is right.
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if names[builtin] == "CUSTOM":
            return f"CUSTOM:{code.CustomCode().decode()}"
        return names[builtin]

    counts: Counter[str] = Counter()
    for s in range(model.SubgraphsLength()):
        graph = model.Subgraphs(s)
        counts.update(name_of(codes[graph.Operators(i).OpcodeIndex()]) for i in range(graph.OperatorsLength()))
    return dict(sorted(counts.items()))


def check_operators(path: str | Path) -> dict[str, int]:
    """Operators of a `.tflite` file made of builtin operators only.

    Raises:
        ModelError: naming the operators that the stock interpreter lacks.
    """
    found = operators(path)
    bad = [name for name in found if name.startswith("CUSTOM:") or name in _VARIABLES]
    if bad:
        raise ModelError(
            f"{path} needs operators that TensorFlow Lite does not have builtin: {', '.join(bad)}. "
            "Rewrite the layers that use them with builtin operators and export again."
        )
    return found


def explain_conversion_error(error: Exception, model: keras.Model) -> ModelError:
    """The converter's error in terms of the model: which operators, in which layers.

    The converter reports locations such as "unet/pool_with_indices_1/MaxPoolWithArgmax"; the deepest part that is a
    layer's name (Keras may have appended a number) is the layer.
    """
    found: dict[str, set[str]] = {}
    names = _layer_names(model)
    for location, operator in _CONVERTER_ERROR.findall(str(error)):
        found.setdefault(operator, set()).add(_layer_at(location, names))
    if not found:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return ModelError(
            f"{model.name} cannot be converted to TensorFlow Lite: {lines[0][:500] if lines else type(error).__name__}"
        )
    text = "; ".join(f"{op} in {', '.join(sorted(layers))}" for op, layers in sorted(found.items()))
    return ModelError(
        f"{model.name} cannot be made of TensorFlow Lite's builtin operators, the only ones that every device runs. "
        f"Without a builtin: {text}. Replace the layer by one that uses builtin operators; nothing was written."
    )


def _layer_names(model: keras.Model) -> set[str]:
    return {layer.name for layer in model._flatten_layers(include_self=False)}


def _layer_at(location: str, names: set[str]) -> str:
    for part in reversed(location.split("/")):
        for name in (part, re.sub(r"_\d+$", "", part)):
            if name in names:
                return f"layer {name!r}"
    return f"the graph at {location!r}"
