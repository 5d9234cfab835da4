"""What the kernels of `kernels.cu` take: the one place that knows the types of their parameters; knows no CuPy.

CuPy knows neither names nor types and checks nothing: a number of the wrong width, or an array of another type, would
be read as garbage.  `kernels.py` converts and checks by this table, and the structs of `kernels.cu` are made from it.
"""

import re
from importlib.resources import files

import numpy as np

ROWS = {"float16": "*f2", "float32": "*f4", "float64": "*f8", "uint8": "*u1", "int8": "*i1"}
STRUCTS: dict[str, dict[str, str]] = {
    name: dict(re.findall(r"(\w+):(\S+)", fields))
    for name, fields in {
        # The rows in hand, without their components.
        "Epoch": "norms:*f8 bias:*f4 error:*f4 d:i8 first:i8",
        # All queries with the exact neighbours of the rows searched so far, and room for one answer to be merged in.
        "Kept": "queries:*f8 norms:*f8 to_score:*f8 slack:*f4 nq:i8 k:i8 dists:*f8 ids:*i8 filled:*i4"
        " spare_dists:*f8 spare_ids:*i8",
        # Their candidates, `room` for each; pairs refined, and the largest share of the proven error that was used.
        "Found": "threshold:*f4 held:*i4 score:*f4 row:*i4 exact:*f8 room:i8 sums:*u8",
        # How distances are made.
        "Rule": "leaves:*i8 leaf_count:i4 metric:i4 single:i4 rounding:f8",
    }.items()
}
"""Names and types of the fields, the types as below."""
SIGNATURES = {
    "begin_epoch": "*f8 *i4 *f8 *f8 i8 i8 f8 *f4 *i4",
    "select_passing": "*f4 i8 i8 i8 *f4 *f4 *f4 *i8 i8 i8 *i4 *f4 *i4 *u8",
    "hamming_scores": "*u8 *u8 i8 i8 i8 *f4",
    **{f"settle_{name}": rows + " Epoch Kept Found Rule i8" for name, rows in [*ROWS.items(), ("uint64", "*u8")]},
    "unit_halves": "*f2 i8 i8 f8 f8 *f8 *f8",
    **{f"compare_references_{name}": rows + " i8 i8 *f4 i8 *f4 f4 *i8 i4 i4 *u1" for name, rows in ROWS.items()},
    **{f"squared_norms_{name}": rows + " i8 i8 *i8 i4 *f8" for name, rows in ROWS.items()},
}
"""Parameters by NumPy's names of types; with a star, arrays of them; or structs, passed by value."""

LAYOUTS = {
    name: np.dtype([(field, "u8" if "*" in type_ else type_) for field, type_ in fields.items()], align=True)
    for name, fields in STRUCTS.items()
}
"""As C++ lays them out; arrays are addresses."""
C = {"f8": "double", "f4": "float", "i8": "long long", "i4": "int", "u8": "unsigned long long"}

WIDEN = """
__device__ __forceinline__ double widen(float x) {
  unsigned bits = __float_as_uint(x);
  if (bits & 0x7f800000u) return (double)x;
  double tiny = (double)(bits & 0x7fffffu) * 0x1p-149;
  return bits >> 31 ? -tiny : tiny;
}
template <class T> __device__ __forceinline__ double widen(T x) { return (double)x; }
"""
"""CUDA C++ that makes a double of any component.

CuPy has kernels compiled with -ftz=true, whatever options it is given.  Conversions from and to float32 then make
subnormal numbers zero; rows may hold some, and some distances are."""


def source() -> str:
    """CUDA C++ of all kernels."""
    return WIDEN + structs() + (files("gpuknn.engine.cuda") / "kernels.cu").read_text()


def structs() -> str:
    """CUDA C++ of the structs, which `kernels.cu` begins with."""
    fields = {
        name: " ".join(f"{c_type(type_)} {field};" for field, type_ in types.items()) for name, types in STRUCTS.items()
    }
    return "".join(f"struct {name} {{ {declared} }};\n" for name, declared in fields.items()) + "#line 1\n"


def c_type(type_: str) -> str:
    """The same type in C++."""
    return C.get(type_.strip("*"), "void") + "*" * ("*" in type_)
