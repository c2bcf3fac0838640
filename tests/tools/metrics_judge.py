#!/usr/bin/env python3
"""Judges the metrics of `imgbuild verify` by NumPy and SciPy on random tensors: metrics_judge.py PROGRAM [--cases N] [--seed N].

PROGRAM is `target/debug/examples/metrics`. The tensors have every datatype, denormals, infinities, NaN, no elements and no dimensions.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import warnings

import ml_dtypes
import numpy as np
from scipy import stats

FLOOR, K = 1e-3, 5
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64, np.int8, np.int32, np.int64, np.uint8, np.bool_]
SHAPES = [(), (0,), (0, 4), (1,), (7,), (1, 10), (3, 5), (2, 3, 4), (64, 100)]


def special(rng, values):
    """Puts denormals, infinities and NaN into some places."""
    info = ml_dtypes.finfo(values.dtype)
    flat = values.reshape(-1)
    for value in (np.inf, -np.inf, np.nan, info.smallest_subnormal, -info.smallest_subnormal, 0.0, info.max, -info.max):
        if flat.size and rng.random() < 0.5:
            flat[rng.integers(flat.size)] = value
    return flat.reshape(values.shape)


def case(rng):
    dtype, shape = DTYPES[rng.integers(len(DTYPES))], SHAPES[rng.integers(len(SHAPES))]
    if np.issubdtype(dtype, np.integer) or dtype is np.bool_:
        low, high = (0, 2) if dtype is np.bool_ else (0 if np.issubdtype(dtype, np.unsignedinteger) else -100, 100)
        expected = rng.integers(low, high, shape).astype(dtype)
        actual = np.where(rng.random(shape) < 0.1, rng.integers(low, high, shape).astype(dtype), expected).astype(dtype)
    else:
        expected = (rng.normal(size=shape) * 10.0 ** rng.integers(-6, 4)).astype(dtype)
        actual = (expected.astype(np.float64) * (1 + rng.normal(size=shape) * 10.0 ** rng.integers(-9, 0))).astype(dtype)
        if rng.random() < 0.3:
            expected, actual = special(rng, np.array(expected)), special(rng, np.array(actual))
        if rng.random() < 0.2:
            # Equal values within rows: their ranks are shared.
            expected, actual = np.round(expected.astype(np.float64), 0).astype(dtype), np.round(actual.astype(np.float64), 0).astype(dtype)
    return np.asarray(expected, dtype), np.asarray(actual, dtype)


def judge(expected, actual):
    """The same metrics by other people's code."""
    is_float = not (np.issubdtype(expected.dtype, np.integer) or expected.dtype == np.bool_)
    e, a = expected.astype(np.float64).reshape(-1), actual.astype(np.float64).reshape(-1)
    same = (e == a) | (np.isnan(e) & np.isnan(a))
    finite = np.isfinite(e) & np.isfinite(a)
    # The difference of two finite numbers may be infinite; the largest number stands for it.
    error = np.minimum(np.abs(a - e)[finite], np.finfo(np.float64).max)
    found = {
        "elements": expected.size,
        "unequal": int((~same).sum()),
        "nonfinite_mismatches": int((~same & ~finite).sum()),
        "expected_nan": int(np.isnan(e).sum()),
        "actual_nan": int(np.isnan(a).sum()),
        "expected_infinite": int(np.isinf(e).sum()),
        "actual_infinite": int(np.isinf(a).sum()),
        "max_absolute": error.max(initial=0.0),
        "mean_absolute": error.mean() if error.size else 0.0,
        "max_relative": (error / np.maximum(np.abs(e[finite]), FLOOR)).max(initial=0.0),
    }
    scale = max(np.abs(e[finite]).max(initial=0.0), error.max(initial=0.0)) or 1.0
    found["rmse"] = scale * np.sqrt(np.mean((error / scale) ** 2)) if error.size else 0.0
    reference = scale * np.sqrt(np.mean((e[finite] / scale) ** 2)) if error.size else 0.0
    found["relative_rmse"] = found["rmse"] / reference if found["rmse"] else 0.0
    quantiles = {}
    for name, part in (("p50_absolute", 0.5), ("p99_absolute", 0.99), ("p999_absolute", 0.999)):
        quantiles[name] = np.quantile(error, part, method="inverted_cdf") if error.size else 0.0
    if is_float and expected.ndim and expected.shape[-1] >= 2:
        rows_e, rows_a = e.reshape(-1, expected.shape[-1]), a.reshape(-1, expected.shape[-1])
        if len(rows_e):
            found["top_1"] = np.mean(np.argmax(rows_e, 1) == np.argmax(rows_a, 1))
            correlations = []
            for row_e, row_a in zip(rows_e, rows_a):
                if np.isfinite(row_e).all() and np.isfinite(row_a).all() and np.ptp(row_e) > 0 and np.ptp(row_a) > 0:
                    correlations.append(stats.spearmanr(row_e, row_a).statistic)
            found["rank_correlation"] = np.mean(correlations) if correlations else None
            if not np.isnan(rows_e).any() and not np.isnan(rows_a).any():
                k = min(K, expected.shape[-1])
                top = lambda row: set(np.argsort(-row, kind="stable")[:k])
                found["top_k"] = np.mean([len(top(x) & top(y)) / k for x, y in zip(rows_e, rows_a)])
    unit = lambda values: values / (np.abs(values).max(initial=0.0) or 1.0)
    ue, ua = unit(e[finite]), unit(a[finite])
    if np.linalg.norm(ue) and np.linalg.norm(ua):
        found["cosine"] = float(ue @ ua / (np.linalg.norm(ue) * np.linalg.norm(ua)))
    return found, quantiles


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program")
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    rng = np.random.default_rng(options.seed)
    compared = 0
    with tempfile.TemporaryDirectory() as folder:
        folder, cases, arguments = pathlib.Path(folder), [], []
        for number in range(options.cases):
            expected, actual = case(rng)
            cases.append((expected, actual))
            for name, array in (("expected", expected), ("actual", actual)):
                path = folder / f"{number}.{name}.npy"
                np.save(path, array)
                arguments.append(str(path))
        lines = subprocess.run([options.program, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        assert len(lines) == len(cases), (len(lines), len(cases))
        for number, ((expected, actual), line) in enumerate(zip(cases, lines)):
            ours, (exact, quantiles) = json.loads(line), judge(expected, actual)
            where = f"case {number}: {expected.dtype} {expected.shape}"
            for name, value in exact.items():
                compared += 1
                if value is None:
                    assert ours[name] is None, (where, name, ours[name])
                    continue
                assert ours[name] is not None, (where, name, value)
                tolerance = 0 if isinstance(value, int) else 1e-9 * max(1.0, abs(value)) if name in ("cosine", "rank_correlation") else 1e-9 * abs(value)
                near = abs(ours[name] - value) <= tolerance or (value > 1e308 and ours[name] > 1e308)
                assert near, f"{where}: {name} is {ours[name]}, NumPy gives {value}"
            for name, value in quantiles.items():
                compared += 1
                assert abs(ours[name] - value) <= 1.001e-3 * value, f"{where}: {name} is {ours[name]}, NumPy gives {value}"
    print(f"{len(cases)} pairs of tensors, {compared} metrics equal NumPy's and SciPy's")


if __name__ == "__main__":
    sys.exit(main())
