"""Models on a CUDA device: answers beside the processor's, and what is booked beside what is real.

    python -m benchmarks accelerator [--budget 1GiB] [--models 14] [--mib 128] [--rounds 2]

An instance in this process, with a small budget on the device, serves networks of PyTorch of three
kinds (TorchScript, exported programs, a class with its weights) over HTTP, all of which together do
not fit. Each round asks for every model once, in another order. After each answer: is what is
booked within the budget, and how far is it from what PyTorch says that it holds there? Then a
model that is larger than the budget, required and preferred; a device that somebody else has
filled; and what is left when all models have left. A convolution is among them, which devices
compute with fewer bits if they may. Ends with status 1 where an answer or a budget is wrong;
without a device it says so and ends. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from shoal.domain.model import ModelSpec, Placement
from shoal.domain.signature import TensorSpec
from shoal.node.declarations import Declarations
from shoal.runtimes import cuda
from shoal.settings.kinds import parse_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shoal.app.server import App

MIB: Final = 1024**2
KINDS: Final = ("script", "exported", "class")
WIDE, CHANNELS, EXTENT = 256, 3, 32
TOLERANCE: Final = 1e-4  # of the largest number of an answer
ROOM_FOR_CALLS: Final = 0.2  # of the budget, by which PyTorch may hold more than is booked
LEFT_MIB: Final = 64  # of a filled device

_CLASS: Final = '''
import torch


class Net(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.a, self.b = torch.nn.Linear(256, inner), torch.nn.Linear(inner, 256)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))
'''


@dataclass
class Wanted:
    """A model, what it is asked and what the processor answers."""

    name: str
    path: Path
    body: bytes
    right: NDArray[np.float32]
    inputs: tuple[TensorSpec, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Found:
    """What the rounds showed. Bytes are of the device."""

    wrong: list[str] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    most_booked: int = 0
    most_held: int = 0
    besides: list[int] = field(default_factory=list)
    predicted_over_real: list[float] = field(default_factory=list)
    booked_over_real: list[float] = field(default_factory=list)
    cold_ms: list[float] = field(default_factory=list)
    warm_ms: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", default="1GiB", help="on the device, for models")
    parser.add_argument("--models", type=int, default=14)
    parser.add_argument("--mib", type=int, default=128, help="of each")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    there = cuda.devices()
    if not there:
        print("no CUDA device is here: nothing to measure")
        print(json.dumps({"devices": 0}))
        return
    for device in there:
        print(f"{device.name}: {device.total_bytes / MIB:,.0f} MiB")
    with tempfile.TemporaryDirectory() as folder:
        offer_runtimes(Path(folder) / "packages")
        found = asyncio.run(measure(Path(folder), options))
    print(json.dumps({
        "devices": len(there), "wrong": len(found.wrong),
        "largest_error": max(found.errors), "most_booked_bytes": found.most_booked,
        "most_held_bytes": found.most_held,
        "predicted_over_real": round(statistics.median(found.predicted_over_real), 3),
        "booked_over_real": round(statistics.median(found.booked_over_real), 3),
        "cold_ms": round(statistics.median(found.cold_ms), 1),
        "warm_ms": round(statistics.median(found.warm_ms), 2),
    }))
    sys.exit(bool(found.wrong))


def offer_runtimes(folder: Path) -> None:
    """Where Shoal is run from its sources without being installed, its runtimes are found nowhere:
    they are read from `pyproject.toml` then."""
    if entry_points(group="shoal.runtimes"):
        return
    import tomllib

    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    points = project["entry-points"]["shoal.runtimes"]
    info = folder / "shoal-0.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shoal\nVersion: 0.0.0\n")
    (info / "entry_points.txt").write_text("[shoal.runtimes]\n" + "".join(
        f"{name} = {where}\n" for name, where in points.items()))
    sys.path.insert(0, str(folder))


async def measure(folder: Path, options: argparse.Namespace) -> Found:
    import torch

    from shoal.app.server import App
    from shoal.settings import read_settings

    models = [make(torch, folder / "models", number, options.mib)
              for number in range(options.models)]
    convolution = make_convolution(torch, folder / "models")
    budget = int(str(parse_bytes(options.budget)))
    large = make(torch, folder / "models", len(models), budget // MIB + options.mib)
    app = App(read_settings({
        "accelerator.devices": "cuda:0", "accelerator.memory": str(budget),
        "http.port": "0", "grpc.port": "0", "management.port": "0", "registry.url": "memory",
        "data_dir": str(folder / "data"), "cache.fill": "none", "memory": "16GiB",
        "trust.locations": str(folder), "log.level": "warning",
    }, {}))
    await app.start()
    try:
        declarations = Declarations(app.instance, app.runtimes)
        for each in (convolution, *models):
            await declarations.register(spec(each, required=True))
        found = Found()
        rounds = Rounds(app, torch, budget, found)
        await rounds.ask(convolution)
        await rounds.play(models, options.rounds)
        await rounds.check_large(declarations, large)
        await rounds.check_left(declarations, [convolution, *models])
        await rounds.check_filled(declarations, models[0])
    finally:
        await app.stop()
    return found


def spec(model: Wanted, *, required: bool, name: str = "") -> ModelSpec:
    placement = Placement(accelerator="cuda") if required else Placement(
        preferred_accelerator="cuda")
    return ModelSpec(
        name=name or model.name, uri=str(model.path), placement=placement, inputs=model.inputs,
        options=model.options)


# --- models -------------------------------------------------------------------------------------


def make(torch: Any, folder: Path, number: int, mib: int) -> Wanted:
    """A network of so many MiB, of the kind whose turn it is."""
    torch.manual_seed(number)
    inner = mib * MIB // 4 // (2 * WIDE)
    net = torch.nn.Sequential(
        torch.nn.Linear(WIDE, inner), torch.nn.ReLU(), torch.nn.Linear(inner, WIDE)).eval()
    rows = torch.randn(2, WIDE)
    with torch.inference_mode():
        right = net(rows).numpy()
    kind, name = KINDS[number % len(KINDS)], f"net{number}"
    place = folder / name
    place.mkdir(parents=True)
    options: dict[str, Any] = {}
    if kind == "script":
        path = place / "model.pt"
        torch.jit.save(torch.jit.trace(net, rows), str(path))
    elif kind == "exported":
        path = place / "model.pt2"
        batch = torch.export.Dim("batch", min=1, max=1024)
        torch.export.save(
            torch.export.export(net, (rows,), dynamic_shapes=({0: batch},)), str(path))
    else:
        path = place
        (place / "model.py").write_text(_CLASS)
        weights = {name.replace("0.", "a.").replace("2.", "b."): each
                   for name, each in net.state_dict().items()}
        torch.save(weights, place / "weights.pt")
        options = {"class": "Net", "arguments": {"inner": inner}}
    inputs = () if kind == "exported" else (TensorSpec("x", "FP32", (-1, WIDE)),)
    return Wanted(name, path, body("input" if kind == "exported" else "x", rows.numpy()), right,
                  inputs, options)


def make_convolution(torch: Any, folder: Path) -> Wanted:
    torch.manual_seed(99)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(CHANNELS, 64, 3, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(64, 8, 3, padding=1)).eval()
    images = torch.randn(2, CHANNELS, EXTENT, EXTENT)
    with torch.inference_mode():
        right = net(images).numpy()
    path = folder / "convolution" / "model.pt"
    path.parent.mkdir(parents=True)
    torch.jit.save(torch.jit.trace(net, images), str(path))
    inputs = (TensorSpec("x", "FP32", (-1, CHANNELS, EXTENT, EXTENT)),)
    return Wanted("convolution", path, body("x", images.numpy()), right, inputs)


def body(name: str, rows: NDArray[np.float32]) -> bytes:
    return json.dumps({"inputs": [{
        "name": name, "datatype": "FP32", "shape": list(rows.shape),
        "data": rows.reshape(-1).tolist(),
    }]}).encode()


# --- rounds -------------------------------------------------------------------------------------


class Rounds:
    """Asks the instance, and looks at its books and at PyTorch's after each answer."""

    def __init__(self, app: App, torch: Any, budget: int, found: Found) -> None:
        self._app, self._torch, self._budget, self._found = app, torch, budget, found
        self._pool = app.instance.core.cache.pools["cuda:0"]

    @property
    def _held(self) -> int:
        held: int = self._torch.cuda.memory_allocated(0)
        return held

    async def play(self, models: list[Wanted], rounds: int) -> None:
        print(f"{'model':>12} {'predicted':>12} {'booked':>12} {'real':>12} {'cold':>9} "
              f"{'warm':>9}")
        for number in range(rounds):
            for model in random.Random(number).sample(models, len(models)):
                await self._load(model, shown=number == 0)
        evictions = self._app.instance.core.cache.ledger.evictions
        print(f"{evictions} evictions; booked at most {self._found.most_booked / MIB:,.0f} MiB, "
              f"held {self._found.most_held / MIB:,.0f} MiB, budget {self._budget / MIB:,.0f} MiB")
        if not evictions:
            self._say("nothing was evicted: the models fit together, so that nothing is shown")

    async def _load(self, model: Wanted, *, shown: bool) -> None:
        cache = self._app.instance.core.cache
        revision = self._app.instance.record(model.name).revisions[0]
        here = cache.copies.get(revision.id)
        predicted = cache.foresee(revision).accelerator_bytes
        held, booked = self._held, self._pool.booked_bytes
        cold_ms = await self.ask(model)
        warm_ms = await self.ask(model)
        copy = cache.copies[revision.id]
        left = booked + copy.accelerator_bytes - self._pool.booked_bytes  # by evictions
        real = self._held - held + left
        if here is None and real > 0:
            self._found.cold_ms.append(cold_ms)
            self._found.predicted_over_real.append(predicted / real)
            self._found.booked_over_real.append(copy.accelerator_bytes / real)
        self._found.warm_ms.append(warm_ms)
        if copy.device != "cuda:0":
            self._say(f"{model.name} lies on {copy.device}")
        if shown:
            print(f"{model.name:>12} {predicted:12,} {copy.accelerator_bytes:12,} {real:12,} "
                  f"{cold_ms:6.0f} ms {warm_ms:6.2f} ms")

    async def ask(self, model: Wanted, name: str = "") -> float:
        """Milliseconds; the answer and the budgets are checked."""
        began = time.perf_counter()
        status, answer = await self._post(name or model.name, model.body)
        took_ms = (time.perf_counter() - began) * 1e3
        if status != 200:
            self._say(f"{model.name} was answered {status}: {answer[:300]!r}")
            return took_ms
        output = json.loads(answer)["outputs"][0]
        got = np.array(output["data"], np.float32).reshape(output["shape"])
        error = float(np.abs(got - model.right).max() / np.abs(model.right).max())
        self._found.errors.append(error)
        if error > TOLERANCE:
            self._say(f"{model.name} answers otherwise than on the processor, by {error:.2e}")
        self._check_budget()
        return took_ms

    def _check_budget(self) -> None:
        booked, held = self._pool.booked_bytes, self._held
        self._found.most_booked = max(self._found.most_booked, booked)
        self._found.most_held = max(self._found.most_held, held)
        if booked > self._budget:
            self._say(f"{booked:,} bytes are booked of {self._budget:,}")
        if held > booked + ROOM_FOR_CALLS * self._budget:
            self._say(f"PyTorch holds {held:,} bytes, and {booked:,} are booked")

    async def _post(self, name: str, body: bytes) -> tuple[int, bytes]:
        port = int(self._app.identity.http_address.rpartition(":")[2])

        def post() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
            try:
                connection.request("POST", f"/v2/models/{name}/infer", body)
                response = connection.getresponse()
                return response.status, response.read()
            finally:
                connection.close()

        return await asyncio.to_thread(post)

    # --- what does not fit ----------------------------------------------------------------------

    async def check_large(self, declarations: Declarations, large: Wanted) -> None:
        await declarations.register(spec(large, required=True, name="large"))
        status, answer = await self._post("large", large.body)
        print(f"larger than the budget: {status} {answer.decode(errors='replace')[:200]}")
        if status != 503 or b"accelerator cuda:0" not in answer:
            self._say("a model larger than the budget is not refused as such")
        await declarations.register(spec(large, required=False, name="large-preferred"))
        await self.ask(large, "large-preferred")
        copies = self._app.instance.core.cache.copies.values()
        if any(copy.device for copy in copies if copy.revision.model == "large-preferred"):
            self._say("what is larger than the budget lies on the device")

    async def check_filled(self, declarations: Declarations, model: Wanted) -> None:
        """Somebody else takes the device's memory, and gives it back."""
        torch = self._torch
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(0)
        taken = torch.empty(max(free - LEFT_MIB * MIB, 1), dtype=torch.uint8, device="cuda:0")
        await declarations.register(spec(model, required=True, name="late"))
        status, answer = await self._post("late", model.body)
        print(f"the device is full: {status} {answer.decode(errors='replace')[:200]}")
        if status != 503 or b"too little memory" not in answer:
            self._say("a device that is full of others is not told as such")
        del taken
        torch.cuda.empty_cache()
        for _ in range(100):  # it is tried again after a while
            status, answer = await self._post("late", model.body)
            if status == 200:
                break
            await asyncio.sleep(0.1)
        await self.ask(model, "late")

    async def check_left(self, declarations: Declarations, models: list[Wanted]) -> None:
        for each in models:
            await declarations.unregister(each.name)
        await self._settled()
        left = self._held
        print(f"when all have left PyTorch holds {left / MIB:.1f} MiB of the device")
        if self._pool.booked_bytes or left > ROOM_FOR_CALLS * self._budget:
            self._say(f"{self._pool.booked_bytes:,} bytes are still booked, {left:,} held")

    async def _settled(self) -> None:
        """Until what leaves has left."""
        copies = self._app.instance.core.cache.copies
        while any(copy.state.value == "unloading" for copy in copies.values()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def _say(self, what: str) -> None:
        print(f"WRONG: {what}")
        self._found.wrong.append(what)


if __name__ == "__main__":
    main()
