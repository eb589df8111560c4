"""The endpoint under load, beside the library and beside a plain app that calls it.

python -m bench.serve --json                        # all parts, about 25 minutes
python -m bench.serve --json --part start latency

One JSON object on stdout, progress on stderr. Sides of a ratio run in turns, over the same run, the
same requests and both cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench._context import in_turns, say
from bench._load import Running, ask_all, body_of, own_memory, plain, service, session_of, texts_of

PARTS = ("start", "latency", "encode", "throughput", "rubbish", "soak")
OFFLINE = 64  # texts of a request to the library, which tries as many at a time


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts and print what they found."""
    p = argparse.ArgumentParser(prog="bench.serve", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--json", action="store_true", help="kept for uniformity: the output is JSON")
    p.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS))
    p.add_argument("--run", type=Path, help="a trained run [default: the one that ships]")
    p.add_argument("--serve", default="", help="options of `cllm serve`, in one word")
    p.add_argument("--clients", type=int, default=32)
    p.add_argument("--texts", type=int, default=8, help="asked for by one request under load")
    p.add_argument("--requests", type=int, default=128, help="of one side of a ratio, in one turn")
    p.add_argument("--singles", type=int, default=200, help="requests whose latency is measured")
    p.add_argument("--turns", type=int, default=3)
    p.add_argument("--malformed", type=int, default=10_000, help="requests that nobody should send")
    p.add_argument("--minutes", type=float, default=10, help="of the soak")
    options = p.parse_args(arguments)
    parts: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "start": start, "latency": latency, "encode": encode, "throughput": throughput,
        "rubbish": rubbish, "soak": soak,
    }  # fmt: skip
    found = {}
    for name in options.part:
        found[name] = parts[name](options)
        say(f"{name} {found[name]}")
    print(json.dumps(found))


def texts_a_second(url: str, options: argparse.Namespace, first: int) -> float:
    """Texts of requests `first` and on, by all clients."""
    bodies = [body_of(first + i, options.texts) for i in range(options.requests)]
    begun = time.perf_counter()
    answers = asyncio.run(ask_all(url, bodies, options.clients))
    return sum(len(one.told["items"]) for one in answers) / (time.perf_counter() - begun)


# ---- parts -------------------------------------------------------------------------------


def start(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds from `cllm serve` to its first answer."""
    taken = []
    for _ in range(options.turns):
        with service(options) as one:
            taken.append(one.seconds)
    return {"seconds": taken, "median": float(np.median(taken))}


def latency(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of `generate n=1`, by the endpoint and by the library, in turns; paired."""
    from cllm.sampling import Request
    from cllm.where import Where

    sampler = sampler_of(options, 1)  # as the endpoint's model has
    taken: dict[str, list[float]] = {"endpoint": [], "library": []}

    async def both(url: str) -> None:
        async with session_of(url) as ask:
            for number in range(-20, options.singles):  # the first ones warm up
                body = body_of(abs(number), 1)
                wanted = Request(Where(topic=body["topic"]), n=1, seed=body["seed"])

                async def here(wanted: Request = wanted) -> float:
                    begun = time.perf_counter()
                    list(sampler.sample(wanted))
                    return time.perf_counter() - begun

                async def there(body: dict[str, Any] = body) -> float:
                    return (await ask("/v1/generate", body)).seconds

                sides = {"endpoint": there, "library": here}
                for name, side in in_turns(sides, number % 2):
                    took = await side()
                    taken[name] += [took] if number >= 0 else []

    with service(options) as one:
        asyncio.run(both(one.url))
    added = np.subtract(taken["endpoint"], taken["library"])
    told = {name: quantiles(seconds) for name, seconds in taken.items()}
    return told | {"added": quantiles(added), "added_of_quantiles": {
        name: told["endpoint"][name] - told["library"][name] for name in told["library"]
    }}  # fmt: skip


def encode(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of `encode` of one text."""

    async def alone(url: str, texts: list[str]) -> list[float]:
        async with session_of(url) as ask:
            for text in texts[:20]:
                await ask("/v1/encode", {"texts": [text]})
            return [(await ask("/v1/encode", {"texts": [text]})).seconds for text in texts]

    texts = list(sampler_of(options, 1).places.train.texts[: options.singles])
    with service(options) as one:
        return quantiles(asyncio.run(alone(one.url, texts)))


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Texts a second: endpoint, plain app, and the library with large requests; all cores each.

    The library is asked for as many texts of each topic as clients ask for, in requests of its
    largest batch: each of them differs from the others of its request, as those of clients do.
    """
    from cllm.sampling import Request
    from cllm.where import Where

    sampler = sampler_of(options, os.cpu_count() or 1)

    def offline(turn: int) -> float:
        begun, found = time.perf_counter(), 0
        for number in range(options.requests * options.texts // OFFLINE):
            body = body_of((turn + 1) * options.requests + number, OFFLINE)
            wanted = Request(Where(topic=body["topic"]), n=OFFLINE, seed=body["seed"])
            found += len(list(sampler.sample(wanted)))
        return found / (time.perf_counter() - begun)

    sides: dict[str, list[float]] = {"endpoint": [], "plain": [], "offline": []}
    with service(options) as ours, plain(options) as theirs:
        for turn in range(-1, options.turns):  # the first one warms up
            first = (turn + 1) * options.requests
            work = {
                "endpoint": lambda: texts_a_second(ours.url, options, first),  # noqa: B023
                "plain": lambda: texts_a_second(theirs.url, options, first),  # noqa: B023
                "offline": lambda: offline(turn),  # noqa: B023
            }
            for name, side in in_turns(work, turn % 2):
                rate = side()
                say(f"{name} {rate:.1f} texts/s")
                sides[name] += [rate] if turn >= 0 else []
    told = {name: float(np.median(rates)) for name, rates in sides.items()}
    return {
        "texts_a_second": sides,
        "over_offline": [a / b for a, b in zip(sides["endpoint"], sides["offline"], strict=True)],
        "over_plain": [a / b for a, b in zip(sides["endpoint"], sides["plain"], strict=True)],
        "median_over_offline": told["endpoint"] / told["offline"],
        "median_over_plain": told["endpoint"] / told["plain"],
        "clients": options.clients, "texts": options.texts, "offline_texts": OFFLINE,
    }  # fmt: skip


def rubbish(options: argparse.Namespace) -> dict[str, Any]:
    """Requests out of shape: bytes, bodies, paths, headers, and what schemathesis thinks of."""
    from bench import _rubbish

    statuses, faults = Counter[str](), list[str]()
    with service(options) as one:
        host, port = one.url.removeprefix("http://").split(":")
        for path, known, answer in _rubbish.described(one.url, options.malformed // 40):
            statuses[str(known)] += 1
            if wrong := _rubbish.fault(known, answer):
                faults.append(f"{wrong}: {path}")
        left = options.malformed - sum(statuses.values())
        raw = [*_rubbish.rubbish(np.random.default_rng(0), left)]
        for request, status, answer in _rubbish.answers(host, int(port), raw):
            statuses[str(status)] += 1
            if wrong := _rubbish.fault(status, answer):
                faults.append(f"{wrong}: {request[:80]!r}")
        seconds = list[float]()

        def asked() -> None:
            seconds.append(asyncio.run(ask_all(one.url, [body_of(0, 1)], 1))[0].seconds)

        asked()
        _rubbish.slow(host, int(port), 200, asked)
    return {"sent": sum(statuses.values()), "statuses": dict(statuses), "faults": faults[:20],
            "faults_count": len(faults), "served_after_seconds": seconds[0],
            "served_beside_200_slow_senders_seconds": seconds[1]}  # fmt: skip


def soak(options: argparse.Namespace) -> dict[str, Any]:
    """Twice the load that it can take, evenly, for minutes: answers, their times, memory."""
    with service(options) as one:
        right = {number: texts_of(answer) for number, answer in enumerate(asyncio.run(
            ask_all(one.url, [body_of(i, options.texts) for i in range(32)], 1)))}  # fmt: skip
        alone = quantiles([
            answer.seconds for answer in asyncio.run(
                ask_all(one.url, [body_of(i, options.texts) for i in range(32)], 1))
        ])  # fmt: skip
        capacity = texts_a_second(one.url, options, 0) / options.texts
        say(f"it takes {capacity:.2f} requests/s; now twice as many")
        found = asyncio.run(_overload(one, options, 2 * capacity, right))
    seconds = found.pop("accepted_seconds")
    return found | {
        "requests_a_second": 2 * capacity, "alone": alone, "accepted": quantiles(seconds),
        "p99_over_alone": float(np.quantile(seconds, 0.99)) / alone["p99"],
    }  # fmt: skip


async def _overload(
    one: Running, options: argparse.Namespace, rate: float, right: dict[int, list[str]]
) -> dict[str, Any]:
    statuses, wrong, seconds, memory = Counter[str](), list[str](), list[float](), list[float]()
    begun = time.monotonic()
    ends = begun + 60 * options.minutes
    async with session_of(one.url) as ask, asyncio.TaskGroup() as group:

        async def request(number: int) -> None:
            try:
                answer = await ask("/v1/generate", body_of(number, options.texts))
            except Exception as error:
                statuses[type(error).__name__] += 1
                wrong.append(repr(error))
                return
            statuses[str(answer.status)] += 1
            if answer.status == 200:
                seconds.append(answer.seconds)
                if texts_of(answer) != right[number]:
                    wrong.append(f"other texts for seed {number}")
            elif answer.status not in (429, 503) or not answer.retry_after:
                wrong.append(f"{answer.status}: {answer.told}")

        async def watch() -> None:
            while time.monotonic() < ends:
                await asyncio.sleep(10)
                memory.append(await asyncio.to_thread(own_memory, one.process))

        group.create_task(watch())
        sent = 0
        while time.monotonic() < ends:
            group.create_task(request(sent % len(right)))
            sent += 1
            await asyncio.sleep(max(0.0, begun + sent / rate - time.monotonic()))
    settled = memory[6:] or memory  # after the first minute
    return {
        "sent": sent, "statuses": dict(statuses), "wrong": wrong[:5], "wrong_count": len(wrong),
        "memory_mib": {"first": settled[0], "last": settled[-1], "least": min(settled),
                       "most": max(settled)},
        "memory_change": settled[-1] / settled[0] - 1,
        "accepted_seconds": seconds,
    }  # fmt: skip


# ---- small parts -------------------------------------------------------------------------


def sampler_of(options: argparse.Namespace, threads: int) -> Any:  # noqa: ANN401 - loads torch
    """The library on the same run."""
    import torch

    from cllm.run import SHIPPED_VOIDS, RunFolder
    from cllm.sampler import Sampler

    torch.set_num_threads(threads)
    return Sampler.of(RunFolder(options.run or SHIPPED_VOIDS))


def quantiles(seconds: Any) -> dict[str, float]:  # noqa: ANN401 - numbers
    """Median and 99th percentile."""
    return {f"p{q}": float(np.quantile(seconds, q / 100)) for q in (50, 99)}


if __name__ == "__main__":
    main()
