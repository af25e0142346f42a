"""Any uplink, downlink and rule together, against the channels' definitions, bit for bit."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from oracles.harness import ETAS, NAMES, Pair, make_job
from oracles.operators import draws, heads, operator
from oracles.reference import SERVER, Algorithm
from psrv.errors import ConfigError
from psrv.messages import Push
from psrv.methods import METHODS, from_description, resolve
from psrv.server.aggregator import Refuse
from psrv.simulation import Cluster

TENSORS = (("w", (4, 5), 0), ("b", (9,), 0))
CHANNELS = (
    *(("plain", c) for c in ("dense", "sign", "sign-unscaled")),
    *((f, c) for f in ("ef", "markov") for c in ("dense", "sign")),
)
RULES = ("sgd", "nesterov", "ef-nesterov", "amsgrad")
UP_CHANNELS = (*CHANNELS, *(("marina", c) for c in ("dense", "rand-k:0.3", "perm-k")))
PRESETS = ("sgd", "signum", "dist-ef-sgd", "dist-ef-sgdm")
"""What goes out: g; a moving average; g with rescaled errors; Nesterov's with rescaled errors."""


class Combination(Algorithm):
    """The table of DESIGN section 2, one bucket, nothing fused but where it says one residual.

    With rescaled errors in either direction a round of step size 0 sends nothing at all:
    every memory stays, and a Markov receiver's vector is what it was. So does the vector that
    MARINA's next difference is taken to: the receiver has not seen this round's.
    """

    RULE_STATE = ("b", "m_decay", "m", "v", "v_max")
    STATE = ("x", *RULE_STATE, "e_server", "h_server", "g_hat", "g_tilde", "r")
    WORKER = ("e", "h", "m_local", "previous")

    def __init__(self, *args, method, **options):
        super().__init__(*args, **options)
        self.method = method
        self.spread = None  # a compressor that workers draw for, such as perm-k
        if method.up.compressor.startswith(("rand-k", "perm-k")):
            self.spread = operator(method.up.compressor)
        self.up, self.down = method.up.feedback, method.down.feedback
        self.rescale = METHODS[method.name].up.rescale and "ef" in (self.up, self.down)

    def compress(self, v, spec, who):
        if spec == "dense":
            return v
        return self.C(v, who) if spec == "sign" else self.vote(v, who)

    def outgoing(self, g, i):
        f, mu = self.f, self.f(self.mu)
        if self.method.outgoing == "gradient":
            return g
        if self.method.outgoing == "ema":
            self.m_local[i] = mu * self.m_local[i] + f(1.0 - self.mu) * g
            return self.m_local[i]
        self.m_local[i] = mu * self.m_local[i] + g
        return mu * self.m_local[i] + g

    def step(self, g, eta):
        v = [self.outgoing(row, i) for i, row in enumerate(g)]
        if self.rescale and eta == 0:
            received = self.g_tilde if self.down == "markov" else np.zeros_like(self.x)
        else:
            rho = self.f(self.last_eta / eta) if self.rescale else self.f(1)
            if self.up == "marina":
                mean = self.marina(v)
            else:
                mean = self.mean([self.uplink(v[i], i, rho) for i in range(self.n)])
            received = self.downlink(mean, rho)
            self.last_eta = eta or self.last_eta
        self.update(received, eta)

    def uplink(self, v, i, rho):
        spec = self.method.up.compressor
        if self.up == "plain":
            return self.compress(v, spec, i)
        if self.up == "ef":
            p = v + rho * self.e[i]
            c = self.compress(p, spec, i)
            self.e[i] = p - c
            return c
        c = self.compress(v - self.h[i], spec, i)
        self.h[i] = self.h[i] + c
        return c

    def marina(self, v):
        """The estimate: the mean itself, or what it was and the mean of the differences."""
        if self.t == 0 or heads(self.seed, self.t, self.method.probability):
            self.g_hat = self.mean(v)
        else:
            a = [v[i] - self.previous[i] for i in range(self.n)]
            step = self.mean(a)
            if self.spread is not None:
                step = self.spread.mean(a, draws(self.seed, self.t, self.bucket, self.n))
            self.g_hat = self.g_hat + step
        self.previous = v
        return self.g_hat

    def downlink(self, mean, rho):
        spec = self.method.down.compressor
        if self.up == "markov" and self.down == "markov":
            r = mean + self.r
            c = self.compress(r, spec, SERVER)
            self.r = r - c
        else:
            v = mean
            if self.up == "markov":
                v = self.g_hat = mean + self.g_hat
            if self.down == "plain":
                return self.compress(v, spec, SERVER)
            if self.down == "ef":
                p = v + rho * self.e_server
                c = self.compress(p, spec, SERVER)
                self.e_server = p - c
                return c
            c = self.compress(v - self.h_server, spec, SERVER)
            self.h_server = self.h_server + c
        self.g_tilde = self.g_tilde + c
        return self.g_tilde

    def update(self, u, eta):
        f, mu, lam = self.f, self.f(self.mu), self.f(self.lam)
        match self.method.rule:
            case "sgd":
                self.sgd(u, eta)
            case "amsgrad":
                self.amsgrad(u, eta)
            case "nesterov":
                d = u + lam * self.x
                self.b = mu * self.b + d
                self.x = self.x - f(eta) * (d + mu * self.b)
            case "ef-nesterov":
                self.m_decay = mu * self.m_decay + lam * self.x
                self.x = self.x - f(eta) * ((u + mu * self.m_decay) + lam * self.x)


class Combined(Pair):
    """A ``Pair`` with the definition of the channels in place of a paper's algorithm."""

    def __init__(self, method, n=3):
        def kind(*args, **options):
            return Combination(*args, method=method, **options)

        super().__init__(method, TENSORS, blocks=7, n=n, decay=0.01, kind=kind)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_pair_of_channels_equals_its_definition(preset, rule):
    for (up, up_spec), (down, down_spec) in product(UP_CHANNELS, CHANNELS):
        if up == "marina" and up_spec != "dense" and down_spec == "sign-unscaled":
            continue  # refused: a vote over a sparse uplink
        if up == "marina" and down == "ef" and preset.startswith("dist-ef"):
            continue  # refused: silent while the step size is 0
        more = {"probability": 0.3} if up == "marina" else {}
        method = resolve(
            preset, uplink=up, up_compressor=up_spec, downlink=down, down_compressor=down_spec,
            rule=rule, **more,
        )  # fmt: skip
        pair = Combined(method)
        for t in range(7):
            pair.round([ETAS[t]])
            assert pair.differences() == [], f"{up} {up_spec}, {down} {down_spec}, round {t}"


def test_doublesqueeze_is_error_feedback_both_ways_with_sgd():
    found = set()
    for preset, options in (
        ("sgd", {"uplink": "ef", "downlink": "ef", "compressor": "sign"}),
        ("double-squeeze", {}),
    ):
        method = resolve(preset, **options)
        assert not method.up.rescale
        assert not method.down.rescale
        pair = Combined(method, n=4)
        for t in range(20):
            pair.round([ETAS[t % 10]])
            assert pair.differences() == []
        found.add(pair.cluster.replica.digest())
    assert len(found) == 1


def test_ef21_with_signs_is_a_markov_uplink_and_a_dense_downlink():
    method = resolve("sgd", uplink="markov", up_compressor="sign")
    pair = Combined(method)
    for t in range(20):
        pair.round([0.1])
        assert pair.differences() == [], t
    h = [sender.uplink.memory for sender in pair.cluster.senders]
    assert np.allclose(pair.cluster.aggregator.residual(0).mean, np.mean(h, axis=0), atol=1e-5)


def test_lossless_feedback_is_the_plain_method():
    """With nothing lost, EF and plain give the same bits, and so the same model."""
    digests = set()
    for feedback in ("plain", "ef"):
        method = resolve("amsgrad", uplink=feedback, downlink=feedback)
        pair = Combined(method)
        for _ in range(5):
            pair.round([0.1])
        digests.add(pair.cluster.replica.digest())
    assert len(digests) == 1


def test_dist_ef_sgdm_without_compression_is_sgdm():
    """Also with weight decay, which has a momentum of its own, and changing step sizes."""
    found = []
    for name, options in (("sgdm", {}), ("dist-ef-sgdm", {"compressor": "dense"})):
        pair = Combined(resolve(name, weight_decay=0.01, **options))
        for t in range(20):
            pair.round([ETAS[t % 10]])
        found.append(pair.cluster.replica.parameters)
    assert np.allclose(*found, rtol=1e-5, atol=1e-5)
    assert np.abs(found[0]).max() > 0.1


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("feedback", ["ef", "markov"])
def test_memory_over_an_unscaled_sign_is_refused_with_the_reason(feedback, direction):
    options = {f"{direction}link": feedback, f"{direction}_compressor": "sign-unscaled"}
    with pytest.raises(ConfigError, match=f"{feedback} .*'sign-unscaled'.*would grow"):
        resolve("sgd", **options)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("adam", {}, "method 'adam' is unknown; expected one of sgd, sgdm"),
        ("sgd", {"uplink": "markow"}, "uplink 'markow' is unknown; expected one of plain"),
        ("sgd", {"downlink": ""}, "downlink '' is unknown"),
        ("sgd", {"compressor": "topk"}, "compressor 'topk' is unknown; expected one of dense"),
        ("sgd", {"compressor": "top-k"}, "compressor 'top-k' cannot be: K is ''"),
        ("cd-adam", {"down_compressor": "top-k:2.5"}, "K is 2.5, and a fraction is above 0"),
        ("sgd", {"compressor": "perm-k"}, "the downlink cannot use compressor 'perm-k'"),
        ("signsgd", {"up_compressor": "top-k:0.1"}, "sign-unscaled cannot follow an uplink of"),
        ("sgd", {"rule": "adam"}, "rule 'adam' is unknown; expected one of sgd, nesterov"),
        ("sgd", {"learning_rate": 1}, "option 'learning_rate' is unknown; expected one of"),
        ("sgd", {"summary": "x"}, "option 'summary' is unknown"),
        ("sgd", {"momentum": 0.5}, "method 'sgd' does not use momentum; it uses weight_decay"),
        ("signsgd", {"momentum": 0.5}, "does not use momentum"),
        ("cd-adam", {"momentum": 0.5}, "does not use momentum"),
        ("dist-ef-sgdm", {"beta1": 0.5}, "does not use beta1"),
        ("sgdm", {"decoupled": True}, "does not use decoupled"),
        ("sgdm", {"momentum": 1.0}, "momentum is 1.0; expected a number from 0 to below 1"),
        ("sgdm", {"momentum": -0.1}, "momentum is -0.1"),
        ("sgdm", {"momentum": float("nan")}, "momentum is nan"),
        ("sgdm", {"momentum": "0.9"}, "momentum is '0.9'; expected a number"),
        ("cd-adam", {"beta1": 1}, "beta1 is 1"),
        ("cd-adam", {"beta2": 1.5}, "beta2 is 1.5"),
        ("cd-adam", {"beta2": True}, "beta2 is True"),
        ("cd-adam", {"nu": 0}, "nu is 0; expected a number above 0"),
        ("cd-adam", {"nu": -1e-8}, "nu is -1e-08"),
        ("sgd", {"weight_decay": -1e-4}, "weight_decay is -0.0001; expected 0 or more"),
        ("sgd", {"weight_decay": float("inf")}, "weight_decay is inf"),
        ("sgd", {"weight_decay": float("nan")}, "weight_decay is nan"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_with_the_reason(name, options, text):
    with pytest.raises(ConfigError) as caught:
        resolve(name, **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_presets_are_the_table_of_the_design(name):
    up = {
        "dist-ef-sgd": "ef", "dist-ef-sgdm": "ef", "amsgrad-ef": "ef", "cd-adam": "markov",
        "onebit-adam": "ef", "double-squeeze": "ef", "ef21": "markov", "ef21-two-way": "markov",
        "marina": "marina",
    }  # fmt: skip
    compressor = {
        "sgd": "dense", "sgdm": "dense", "amsgrad": "dense",
        "signsgd": "sign-unscaled", "signum": "sign-unscaled",
        "ef21": "top-k:0.01", "ef21-two-way": "top-k:0.01", "marina": "perm-k",
    }  # fmt: skip
    one_way = ("ef21", "marina")
    outgoing = {"signum": "ema", "dist-ef-sgdm": "nesterov", "onebit-adam": "first-moment"}
    rule = {"sgdm": "nesterov", "dist-ef-sgdm": "ef-nesterov", "onebit-adam": "onebit-adam"}
    adaptive = "amsgrad" in name or name == "cd-adam"
    method = resolve(name)
    assert method.up.feedback == up.get(name, "plain")
    assert method.up.compressor == compressor.get(name, "sign")
    assert method.down.feedback == ("plain" if name in one_way else method.up.feedback)
    assert method.down.compressor == ("dense" if name in one_way else method.up.compressor)
    for channel in (method.up, method.down):
        assert channel.rescale == name.startswith("dist-ef")
        assert channel.opening == int(channel.feedback == "markov" and name.startswith("ef21"))
    assert method.init == ("dense" if name.startswith("ef21") else "compressed")
    assert (method.probability, method.warmup, method.eps) == (None, None, 1e-8)
    assert method.outgoing == outgoing.get(name, "gradient")
    assert method.rule == ("amsgrad" if adaptive else rule.get(name, "sgd"))
    assert (method.momentum, method.weight_decay, method.decoupled) == (0.9, 0.0, False)
    assert (method.beta1, method.beta2, method.nu) == (0.9, 0.99, 1e-8)
    assert method.summary
    assert method.source


def test_an_option_that_is_not_given_keeps_the_presets_value():
    assert resolve("sgdm", momentum=None, beta1=0.9) == resolve("sgdm")
    changed = resolve("cd-adam", compressor="dense", down_compressor="sign", beta1=0.5)
    assert (changed.up.compressor, changed.down.compressor) == ("dense", "sign")
    assert changed.compressor == "dense up, sign down"
    assert changed.beta1 == 0.5


def test_a_description_gives_the_same_method_back():
    for preset, (up, down) in product(NAMES, product(UP_CHANNELS, CHANNELS)):
        sparse = up[1] in ("rand-k:0.3", "perm-k")
        if (sparse and down[1] == "sign-unscaled") or (preset, up[0]) == ("onebit-adam", "marina"):
            continue  # refused
        if up[0] == "marina" and down[0] == "ef" and preset.startswith("dist-ef"):
            continue  # refused
        more = {"probability": 0.3} if up[0] == "marina" else {}
        more |= {"warmup": 4} if preset == "onebit-adam" else {}
        method = resolve(
            preset, uplink=up[0], up_compressor=up[1], downlink=down[0], down_compressor=down[1],
            weight_decay=0.5, **more,
        )  # fmt: skip
        assert from_description(method.describe()) == method


def test_a_description_from_elsewhere_is_checked():
    good = resolve("cd-adam").describe()
    for change in (
        {"uplink": "marina"}, {"up_compressor": "top-k"}, {"rule": "x"}, {"outgoing": "x"},
        {"beta1": 2}, {"beta1": "x"}, {"nu": None}, {"down_compressor": "sign-unscaled"}, {"up": 1},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            from_description(good | change)
    for missing in ("name", "rule", "rescale", "uplink"):
        with pytest.raises(ConfigError):
            from_description({k: v for k, v in good.items() if k != missing})


def test_workers_with_other_step_sizes_are_refused():
    """The push carries eta, and pushes that disagree cannot be one round's."""
    cluster = Cluster(make_job("dist-ef-sgd", TENSORS, 7), 2)
    bucket = cluster.layout.buckets[0]
    pushes = []
    for sender, eta in zip(cluster.senders, (0.1, 0.2), strict=True):
        sender.gradient[:] = 1
        payload = sender.encode(bucket, 0, eta)
        pushes.append(Push(0, 0, 0, sender.rank, eta, b"", payload))
    assert cluster.aggregator.handle(pushes[0], 0) == []
    (refusal,) = cluster.aggregator.handle(pushes[1], 0)
    assert isinstance(refusal, Refuse)
    assert (refusal.rank, refusal.code) == (1, "step-size")
    assert "0.2, worker 0 has 0.1" in refusal.text
