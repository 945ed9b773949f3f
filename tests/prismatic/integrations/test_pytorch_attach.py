"""DynamicsLoggerCallback.attach: the hook on the optimizer logs the numbers of a loop that logs by hand."""

import copy
import pickle
import re
import warnings

import pytest
import torch
from torch import nn

from prismatic import DynamicsLogger, DynamicsLoggerCallback, Prismatic, RouterConfig
from tests.support.run_file import rows as table
from tests.support.small_layers import Mixture
from tests.support.source_tree import ROOT

STEPS = 6


def network(**options):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 30), nn.Tanh(), nn.Linear(30, 8)) for _ in range(2)]
    return nn.Sequential(*(Prismatic(b, 8, RouterConfig(**options), layer=i) for i, b in enumerate(blocks)))


def batch(step):
    return torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(step))


def train(path, optimizer_class=torch.optim.AdamW, accumulate=1, **attach):
    """Run a plain loop with the hook attached and return the logged rows."""
    model = network()
    optimizer = optimizer_class(model.parameters(), lr=0.01)
    callback = DynamicsLoggerCallback(path, log_freq=1)
    callback.attach(model, optimizer, **attach)
    for step in range(STEPS):
        optimizer.zero_grad()
        for part in range(accumulate):
            (model(batch(step * accumulate + part)).square().mean() / accumulate).backward()
        optimizer.step()
    callback.detach(exit_state="finished")
    return table(path)


def test_the_hook_logs_the_same_numbers_as_a_loop_that_logs_by_hand(tmp_path):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    callback = DynamicsLoggerCallback(tmp_path / "hand.db", log_freq=1)
    callback.on_train_begin(model)
    for step in range(STEPS):
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        callback.on_before_optimizer_step(model, step, learning_rate=0.01)
        optimizer.step()
    callback.on_train_end()
    by_hand, hooked = table(tmp_path / "hand.db"), train(tmp_path / "hook.db")
    assert [row["step"] for row in hooked] == list(range(STEPS))
    shared = by_hand[0].keys() & hooked[0].keys()
    strip = [
        [{k: row[k] for k in shared if k not in ("wall_time", "loss")} for row in rows] for rows in (by_hand, hooked)
    ]
    assert strip[0] == strip[1]


def test_accumulated_gradients_are_logged_once_per_step(tmp_path):
    assert [row["step"] for row in train(tmp_path / "x.db", accumulate=3)] == list(range(STEPS))


def test_accumulation_makes_gradients_that_are_not_parallel(tmp_path):
    alone, accumulated = train(tmp_path / "a.db"), train(tmp_path / "b.db", accumulate=4)
    assert max(abs(row["expert_1_direction"]) for row in alone) < 1e-6
    assert max(row["expert_1_direction"] for row in accumulated) > 1e-6


def test_a_closure_is_logged_with_the_gradients_of_its_step(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(tmp_path / "closure.db", log_freq=1)
    callback.attach(model, optimizer)
    norms = []
    for step in range(3):

        def closure(step=step):
            optimizer.zero_grad()
            loss = model(batch(step)).square().mean()
            loss.backward()
            norms.append(torch.cat([p.grad.flatten() for p in model[0].experts[0].parameters()]).norm().item())
            return loss

        optimizer.step(closure)
    callback.detach()
    rows = table(tmp_path / "closure.db", "SELECT norm FROM layers WHERE layer = 0 AND expert = 0 ORDER BY step")
    assert [row["norm"] for row in rows] == pytest.approx(norms, rel=1e-6)
    assert all(row["loss"] > 0 for row in table(tmp_path / "closure.db"))


def test_lbfgs_logs_every_step_once_however_often_it_evaluates(tmp_path):
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=5)
    callback = DynamicsLoggerCallback(tmp_path / "lbfgs.db", log_freq=1)
    callback.attach(model, optimizer)

    def closure():
        optimizer.zero_grad()
        loss = model(batch(0)).square().mean()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    callback.detach()
    assert [row["step"] for row in table(tmp_path / "lbfgs.db")] == [0, 1]


def train_with_overflows(path, overflows, *, optimizer_class=torch.optim.SGD, log_freq=1, growth_interval=2000):
    """Train under a GradScaler, attached, whose gradients overflow in some steps. Return the events' steps."""
    model = network()
    optimizer = optimizer_class(model.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16, growth_interval=growth_interval)
    callback = DynamicsLoggerCallback(path, log_freq=log_freq)
    callback.attach(model, optimizer, scaler=scaler)
    for step in range(8):
        optimizer.zero_grad()
        loss = model(batch(step)).square().mean() * (float("inf") if step in overflows else 1.0)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    callback.detach()
    return [row["step"] for row in table(path, "SELECT step FROM events WHERE code = 'skipped_step'")]


def fused(parameters):
    return torch.optim.AdamW(parameters, fused=True)


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, fused])
def test_a_step_that_a_scaler_skips_is_an_event_and_no_row(tmp_path, optimizer_class):
    overflows = (1, 2, 7)  # two in a row, and the last step
    assert train_with_overflows(tmp_path / "amp.db", overflows, optimizer_class=optimizer_class) == [1, 1, 5]
    assert [row["step"] for row in table(tmp_path / "amp.db")] == [0, 1, 2, 3, 4]


def test_skipped_steps_are_events_also_where_the_scale_has_just_grown_and_nothing_is_logged(tmp_path):
    assert train_with_overflows(tmp_path / "amp.db", (3, 7), growth_interval=3, log_freq=100) == [3, 6]


def test_skipped_steps_of_other_optimizers_are_no_events(tmp_path):
    model, other = network(), nn.Linear(8, 1)
    optimizer, theirs = (torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, other))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    callback = DynamicsLoggerCallback(tmp_path / "two.db", log_freq=1)
    callback.attach(model, optimizer, scaler=scaler)
    scaler.scale(model(batch(0)).square().mean() + other(batch(0)).square().mean() * float("inf")).backward()
    scaler.step(theirs)
    scaler.step(optimizer)
    callback.detach()
    assert table(tmp_path / "two.db", "SELECT * FROM events WHERE code != 'measuring'") == []


def test_a_scaler_steps_by_itself_after_detaching_and_as_a_copy(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    callbacks = [DynamicsLoggerCallback(tmp_path / f"{name}.db") for name in "ab"]
    for callback in callbacks:
        callback.attach(model, optimizer, scaler=scaler)
    for copied in (copy.deepcopy(scaler), pickle.loads(pickle.dumps(scaler))):
        assert copied.step.__self__ is copied
    for callback in reversed(callbacks):
        callback.detach()
    assert "step" not in vars(scaler)


def test_norms_under_a_scaler_are_those_without_one(tmp_path):
    norms = []
    for scale in (None, 2.0**12):
        model, path = network(), tmp_path / f"{scale}.db"
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        callback = DynamicsLoggerCallback(path, log_freq=1)
        callback.attach(model, optimizer, scaler=scaler)
        scaler.scale(model(batch(0)).square().mean()).backward()
        scaler.step(optimizer)
        callback.detach()
        norms.append(table(path)[0]["expert_1_bottom_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_detaching_removes_the_hook(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
    callback.attach(model, optimizer)
    callback.detach()
    model(batch(0)).mean().backward()
    optimizer.step()
    assert table(tmp_path / "x.db") == []


@pytest.mark.parametrize(
    ("order", "code"),
    [
        ("before backward", "no_gradients"),
        ("after zero_grad", "zero_gradients"),
        ("after step", "after_step"),
        ("twice", "repeated_step"),
    ],
)
def test_the_wrong_order_of_calls_is_recognised(tmp_path, order, code):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
    callback.on_train_begin(model)
    loss = model(batch(0)).mean()
    if order != "before backward":
        loss.backward()
    if order == "after zero_grad":
        optimizer.zero_grad(set_to_none=False)
    if order == "after step":
        optimizer.step()
    for _ in range(2 if order == "twice" else 1):
        callback.on_before_optimizer_step(model, 0)
    callback.on_train_end()
    codes = [row["code"] for row in table(tmp_path / "x.db", "SELECT code FROM events WHERE code != 'measuring'")]
    assert codes == [code]


def test_the_right_order_is_no_event(tmp_path):
    train(tmp_path / "x.db")
    assert table(tmp_path / "x.db", "SELECT code FROM events WHERE code != 'measuring'") == []


def test_a_custom_mixture_of_experts_is_logged_by_the_protocol(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(Mixture(), nn.Linear(20, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with DynamicsLogger(tmp_path / "mine.db") as logger:
        callback = DynamicsLoggerCallback(logger, log_freq=1)
        callback.attach(model, optimizer)
        for step in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 5, 20, generator=torch.Generator().manual_seed(step))).square().mean().backward()
            optimizer.step()
    rows = table(tmp_path / "mine.db")
    assert len(rows) == 3
    assert all(0 < row["expert_3_routing_weight"] < 1 and row["expert_3_bottom_norm"] > 0 for row in rows)
    assert len(table(tmp_path / "mine.db", "SELECT * FROM experts")) == 4


def test_the_documented_custom_mixture_is_logged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "logging.md").read_text()
    (code,) = re.findall(r"```python\n(import torch.*?)```", text, re.DOTALL)
    exec(compile(code, "docs/logging.md", "exec"), {})
    path = tmp_path / "build/runs/mixture/dynamics.db"
    rows = table(path)
    assert [row["step"] for row in rows] == list(range(20))
    assert rows[0]["expert_2_bottom_norm"] > 0
    assert sum(rows[0][f"expert_{i}_routing_weight"] for i in range(3)) == pytest.approx(1)
    assert {row["tier"]: row["weights"] for row in table(path, "SELECT * FROM tiers")} == {
        "top": 14,
        "bottom": 14,
        "middle": 244,
    }


def test_a_hook_that_fails_does_not_stop_training(tmp_path):
    class Broken(torch.optim.Optimizer):
        found_inf = property(lambda self: 1 / 0)

        def __init__(self, parameters, lr):
            super().__init__(parameters, {"lr": lr})

        def step(self):
            pass

    with pytest.warns(RuntimeWarning, match="dynamics were not logged .*ZeroDivisionError.* training goes on"):
        assert train(tmp_path / "x.db", Broken) == []


@pytest.mark.parametrize("fused", [False, True])
def test_routing_shares_are_those_of_the_step_with_every_kind_of_optimizer(tmp_path, fused):
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05, fused=fused)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
    callback.attach(model, optimizer)
    shares = []
    for step in range(STEPS):
        optimizer.zero_grad()
        with torch.no_grad():
            shares.append(model[0].route(batch(step)).mean(0)[0].item())
        model(batch(step)).square().mean().backward()
        optimizer.step()
    callback.detach()
    first = "SELECT routing_weight FROM layers WHERE layer = 0 AND expert = 0 ORDER BY step"
    assert [row["routing_weight"] for row in table(tmp_path / "x.db", first)] == pytest.approx(shares, rel=1e-5)
    assert table(tmp_path / "x.db", "SELECT * FROM events WHERE code != 'measuring'") == []


def test_other_arguments_of_the_step_reach_the_optimizer(tmp_path):
    class Scaled(torch.optim.SGD):
        seen = ()

        def step(self, closure=None, scale=1.0):
            self.seen = (*self.seen, scale)
            return super().step(closure)

    model = network()
    optimizer = Scaled(model.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
    callback.attach(model, optimizer)

    def closure():
        optimizer.zero_grad()
        loss = model(batch(0)).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure, 2.0)
    optimizer.step(closure, scale=3.0)
    optimizer.step(closure=closure, scale=4.0)
    callback.detach()
    assert optimizer.seen == (2.0, 3.0, 4.0)
    assert len(table(tmp_path / "x.db")) == 3


def test_a_resumed_loop_continues_counting_steps(tmp_path):
    train(tmp_path / "x.db")
    train(tmp_path / "x.db", first_step=STEPS)
    assert [row["step"] for row in table(tmp_path / "x.db")] == list(range(2 * STEPS))
    assert table(tmp_path / "x.db", "SELECT * FROM events WHERE code != 'measuring'") == []


def test_a_callback_attached_twice_logs_each_step_once(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
    for _ in range(2):
        callback.attach(model, optimizer)
    for step in range(3):
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        optimizer.step()
    callback.detach()
    assert [row["step"] for row in table(tmp_path / "x.db")] == [0, 1, 2]
    assert table(tmp_path / "x.db", "SELECT * FROM events WHERE code != 'measuring'") == []


def test_a_run_records_that_it_is_running_and_then_that_it_finished(tmp_path):
    model = network()
    callback = DynamicsLoggerCallback(tmp_path / "x.db")
    callback.attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    callback.logger.flush()
    state = "SELECT value FROM run WHERE key = 'exit_state'"
    assert table(tmp_path / "x.db", state) == [{"value": '"running"'}]
    callback.detach()
    assert table(tmp_path / "x.db", state) == [{"value": '"finished"'}]


@pytest.mark.parametrize("trained", [True, False], ids=["all trained", "clean expert frozen"])
def test_a_probe_changes_neither_a_retained_graph_nor_the_merged_measurement(tmp_path, trained):
    model = network()
    model.add_module("norm", nn.BatchNorm1d(5))
    for router in (model[0], model[1]):
        router.experts[0].requires_grad_(trained)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1, probe_freq=1)
    callback.on_train_begin(model)
    loss = model(batch(0)).square().mean()
    loss.backward(retain_graph=True)
    callback.on_before_optimizer_step(model, 0, probe=(lambda x: model(x).square().mean(), batch(0)))
    loss.backward()
    callback.on_train_end()
    assert len(table(tmp_path / "x.db")) == 1
    assert table(tmp_path / "x.db", "SELECT * FROM events WHERE code != 'measuring'") == []
    probed = table(tmp_path / "x.db", "SELECT * FROM layers WHERE source = 'isolated' AND expert = 1")
    assert [row["norm"] > 0 for row in probed] == [True, True]


def test_a_warning_that_is_an_error_does_not_stop_training(tmp_path, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
        callback.attach(model, optimizer)
        model(batch(0)).square().mean().backward()
        model[0].tiers = None
        model[0].experts[1] = nn.Identity()
        optimizer.step()
        callback.detach()
    assert "training goes on" in capsys.readouterr().err


def test_tensors_without_tiers_are_counted_in_a_fact(tmp_path):
    callback = DynamicsLoggerCallback(tmp_path / "x.db")
    callback.on_train_begin(nn.Sequential(Prismatic(nn.Linear(4, 4), 4)))
    callback.on_train_end()
    (fact,) = table(tmp_path / "x.db", "SELECT value FROM run WHERE key = 'tensors_without_tiers'")
    assert fact["value"] == "1"  # the bias: 5 % of four weights is none


class Tied(nn.Module):
    """A block that uses one weight twice."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x).tanh())


def test_a_tied_weight_counts_once_with_its_whole_gradient(tmp_path):
    torch.manual_seed(0)
    layer = Prismatic(Tied(), 8)
    layer(batch(0)).square().mean().backward()
    measured = layer.log_gradient_dynamics()["expert_gradients"]["expert_0"]["clean_norm"]
    assert measured == pytest.approx(layer.experts[0].first.weight.grad.norm().item(), rel=1e-6)
    assert measured > 0


def test_frozen_weights_are_not_missing_gradients(tmp_path):
    torch.manual_seed(0)
    model = network()
    for expert in model[0].experts:
        expert.get_parameter("0.bias").requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1)
    callback.attach(model, optimizer)
    model(batch(0)).mean().backward()
    optimizer.step()
    callback.detach()
    assert table(tmp_path / "x.db")[0]["missing_gradients"] == 0


def test_a_compiled_model_is_logged_like_the_plain_one(tmp_path):
    plain = train(tmp_path / "plain.db")
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    callback = DynamicsLoggerCallback(tmp_path / "compiled.db", log_freq=1)
    callback.attach(model, optimizer)
    compiled = torch.compile(model, backend="eager")
    for step in range(STEPS):
        optimizer.zero_grad()
        compiled(batch(step)).square().mean().backward()
        optimizer.step()
    callback.detach()
    numbers = [[row["expert_1_bottom_norm"] for row in rows] for rows in (plain, table(tmp_path / "compiled.db"))]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-5)


@pytest.mark.parametrize("with_closure", [False, True])
def test_the_probe_is_asked_for_its_batch_every_probe_freq_steps(tmp_path, with_closure):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    callback, asked = DynamicsLoggerCallback(tmp_path / "x.db", log_freq=1, probe_freq=3), []

    def loss(batch):
        return model(batch).square().mean()

    def probe():
        asked.append(step)
        return loss, batch(step)

    callback.attach(model, optimizer, probe=probe)
    for step in range(STEPS):

        def evaluate():
            optimizer.zero_grad()
            found = loss(batch(step))  # noqa: B023 - called in this step
            found.backward()
            return found

        if with_closure:
            optimizer.step(evaluate)
        else:
            evaluate()
            optimizer.step()
    callback.detach()
    isolated = [row for row in table(tmp_path / "x.db", "SELECT * FROM layers") if row["source"] == "isolated"]
    assert asked == [0, 3]
    assert sorted({row["step"] for row in isolated}) == [0, 3]
    assert all(row["half_product"] is not None for row in isolated)
