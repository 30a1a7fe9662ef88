"""The Curves screen: what is drawn is what the report says, one cursor in all panels, and what is missing is told."""

from __future__ import annotations

import asyncio
import csv
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_workspace import FakeWorkspace, checkpoints
from screen_text import lines_of, text_of

from kltui.analysis.emptying import LEFT_OUT
from kltui.analysis.number_text import with_error
from kltui.tui.app import KltuiApp
from kltui.tui.export import rows_of, write_csv
from kltui.tui.ui_state import Memory
from kltui.tui.widgets.curve_panel import PUBLISHED_LINE, SETTLED_LINE, CurvePanel
from kltui.view.curve_content import KINDS
from kltui.view.sections.context import Context
from kltui.view.sections.diffusion import diffusion
from kltui.view.sections.loss import loss
from kltui.view.sections.stabilisation import stabilisation

MakeApp = Callable[..., KltuiApp]


def panel(app: KltuiApp, key: str) -> CurvePanel:
    return next(p for p in app.view.panels if p.panel.key == key)


def all_there(app: KltuiApp) -> bool:
    """Whether every panel has what it can have: the last one is filled, or says why it is not."""
    return app.screen_name == "curves" and bool(panel(app, "updates").drawn or panel(app, "updates").note)


async def opened(app: KltuiApp, pilot, until, *keys: str) -> None:
    await until(pilot, lambda: app.snapshot.loaded)
    await pilot.press("4")
    await until(pilot, lambda: all_there(app))
    for key in keys:
        await pilot.press(key)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_published_medians_are_named_in_the_order_of_their_values(
    make_app: MakeApp, until, size: tuple[int, int]
) -> None:
    app = make_app()
    async with app.run_test(size=size) as pilot:
        await opened(app, pilot, until)
        shown = panel(app, "consecutive")
        lines = ((0.4, "upper median"), (0.39, "second median"), (0.38, "third median"))
        for key in ("L", "Y", "L", "Y"):
            await pilot.press(key)
            shown.show_content(replace(shown.content, lines=lines))
            await pilot.pause()
            at = {text: y for y, patches in shown._patches.items() for _, text, _ in patches}
            rows = [at[said] for _, said in lines if said in at]
            assert len(rows) >= 2 and rows == sorted(set(rows))


def keys_of(app: KltuiApp) -> list[str]:
    """The panels in the order of the screen."""
    return [p.panel.key for p in app.view.panels]


async def test_as_many_panels_as_fit(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(60, 15)) as pilot:
        await opened(app, pilot, until)
        for size, shown in (((60, 15), 1), ((80, 24), 4), ((120, 40), 6), ((200, 60), 7)):
            await pilot.resize_terminal(*size)
            await until(pilot, lambda shown=shown: sum(p.display for p in app.view.panels) == shown)
            await until(pilot, lambda: "tiny settled at step 100" in text_of(app))
            assert ("≤0.067" in text_of(app)) or size[0] < 160
            told = f"{shown} of 7 panels (pagedown)"  # if there is room beside the sentence
            assert (told in text_of(app)) == (1 < shown < 7), size
            seen = set()
            for _ in range(8):
                seen |= {p.panel.key for p in app.view.panels if p.display}
                await pilot.press("tab")
            assert len(seen) == 7, size


async def test_a_settled_step_far_from_what_is_shown_does_not_squeeze_it(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until)
        shown = panel(app, "consecutive")
        await until(pilot, lambda: any("settled at 100" in text for _, text, _ in shown.labels()))
        app.set_filter("run:tiny step>=1000")
        await until(pilot, lambda: shown.drawn and min(d.steps[0] for d in shown.drawn) >= 1000)
        assert not any("settled at" in text for _, text, _ in shown.labels())
        assert shown.window.x.low > math.log10(1 + 900) if shown.x_scale == "log1p" else True
        assert "settled at step 100" in text_of(app)  # in the sentence below


async def test_a_checkpoint_left_out_of_the_map_says_why_it_has_no_curve(make_app: MakeApp, until) -> None:
    class WithoutOne(FakeWorkspace):
        def map(self, *given: object, **chosen: object):
            made = super().map(*given, **chosen)
            kept = replace(made, points=made.points[1:], loglik_KN=made.loglik_KN[1:])
            return replace(kept, record={LEFT_OUT: {made.names[0]: "none of its 30 texts has a number"}})

    app = make_app(WithoutOne())
    async with app.run_test(size=(160, 50)) as pilot:
        await opened(app, pilot, until)
        await until(pilot, lambda: app.view.found is not None)
        (name,) = app.view.found.left_out
        await until(pilot, lambda: "1 checkpoint left out of the map has" in " ".join(text_of(app).split()))
        app.set_cursor(name)
        await until(pilot, lambda: f"{name} has no curve: none of its 30 texts has a number" in text_of(app))


async def test_pages_of_panels(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        await until(pilot, lambda: keys_of(app)[-1] == "marked")
        every, pages = keys_of(app), []
        for key in ("pagedown", "pagedown", "pageup", "pageup", "enter", "pagedown", "pageup"):
            pages.append([p.panel.key for p in app.view.panels if p.display])
            await pilot.press(key)
        pages.append([p.panel.key for p in app.view.panels if p.display])
    assert pages == [every[:4], every[3:], every[3:], every[:4], every[:4], every[:1], every[1:2], every[:1]]


async def test_panels_without_curves_come_last(make_app: MakeApp, until) -> None:
    """The first page shows no empty panel while there are others."""
    kinds = [kind.key for kind in KINDS]
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until)
        empty = ["marked"]
        await until(pilot, lambda: keys_of(app) == [*(k for k in kinds if k not in empty), *empty])
        placed = sorted(app.view.panels[:6], key=lambda p: (p.region.y, p.region.x))
        assert placed == app.view.panels[:6] and all(p.drawn for p in placed)
        await pilot.press("a")
        await until(pilot, lambda: keys_of(app) == kinds and panel(app, "marked").drawn)
        assert panel(app, "marked").display and not app.view.panels[-1].display
        assert [row[0] for row in app.view.csv_rows()][1:] == sorted(
            (row[0] for row in list(app.view.csv_rows())[1:]), key=[k.title for k in KINDS].index
        )


async def test_one_key_says_when_a_run_stopped_changing(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        truth = next(s for s in app.view.found.stabilisation(0.2) if s.run == "tiny")
        assert f"tiny settled at step {truth.step} ({truth.earliest} to {truth.latest})" in text_of(app)
        assert "KL between" in text_of(app)  # and two seeds against step, without another key
        assert [c.curve.run for c in panel(app, "between").drawn] == ["tiny-seed2", "tiny-seed3"]


async def test_every_value_is_the_report_s(make_app: MakeApp, until) -> None:
    class Reported(FakeWorkspace):
        weight_problems = ()

        def map(self, *args: object, device: str = "cpu", **how: object):
            return super().map(*args, **how)

    workspace = Reported()
    ctx = Context(workspace)
    app = make_app(workspace)
    async with app.run_test(size=(200, 60)) as pilot:
        await opened(app, pilot, until)
        points = {
            (d.curve.run, step): (v, e)
            for d in panel(app, "loss").drawn
            for step, v, e in zip(d.steps, d.values, d.errors, strict=True)
        }
        said = [c for c in loss(ctx).data["checkpoints"] if c["step"] is not None]
        assert points == {(c["run"], c["step"]): (c["bits_per_byte"], c["se"]) for c in said}
        starts = diffusion(ctx).data["starts"]
        drawn = {
            (d.curve.run, step): v
            for d in panel(app, "exponents").drawn
            for step, v in zip(d.steps, d.values, strict=True)
        }
        assert drawn == {(s["run"], s["start"]): s["c_q"] for s in starts}
        settled = {(s["run"], s["level"]): s["step"] for s in stabilisation(ctx).data["runs"]}
        shown = app.view.settled
        assert settled == {(r, k): s.step for k, of in shown.by_level.items() for r, s in of.items()}
        kls = {
            (d.curve.run, step): (v, e)
            for d in panel(app, "consecutive").drawn
            for step, v, e in zip(d.steps, d.values, d.errors, strict=True)
        }
        assert kls == {(c.run, c.step_to): (c.kl, c.se) for c in ctx.map.consecutive()}
        norms = {s: v for d in panel(app, "updates").drawn for s, v in zip(d.steps, d.values, strict=True)}
        assert norms[200] == pytest.approx(math.sqrt(0.01 * 100**1.1))


async def test_one_cursor_in_all_panels_with_values_and_errors(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "G")
        assert app.selection.cursor == "tiny@1400"
        for key in ("consecutive", "loss", "between"):
            drawn, at = panel(app, key).here()
            assert drawn.steps[at] == 1400
            assert with_error(drawn.values[at], drawn.errors[at]) in text_of(app)
        assert panel(app, "last").here() is None  # the last checkpoint is what all are compared with
        await pilot.press("j")
        assert app.selection.cursor != "tiny@1400" and app.selection.cursor.endswith("@1400")
        here = app.selection.cursor
        await pilot.press("h", "l")
        assert app.selection.cursor == here


async def test_a_panel_is_enlarged_and_esc_goes_back(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "tab", "enter")
        assert [p.panel.key for p in app.view.panels if p.display] == ["loss"]
        await until(pilot, lambda: "tiny@0  3.907 ± 0.021 bits/byte" in text_of(app))
        await pilot.press("tab")
        assert [p.panel.key for p in app.view.panels if p.display] == ["last"]
        await pilot.press("/", *"run:small", "enter", "escape")
        assert sum(p.display for p in app.view.panels) == 6 and app.filter.text == "run:small"
        await pilot.press("escape")
        assert not app.filter.text


async def test_a_panel_names_what_all_its_curves_are_compared_with(make_app: MakeApp, until) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until)
        assert "KL between, against tiny, bits/byte, log" in text_of(app)
        app.view.focus_on(panel(app, "between"))
        await pilot.press("enter")
        await until(pilot, lambda: "KL between runs at equal steps, against tiny, bits/byte" in text_of(app))


async def test_filter_hidden_runs_and_marks(make_app: MakeApp, until, tmp_path: Path) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "z")
        assert "tiny" not in {d.curve.run for d in panel(app, "loss").drawn}
        seen = {t.label for t in app.view.trajectories} - {"tiny"}
        assert app.selection.cursor == "tiny@0" and app.view.label() in seen
        assert panel(app, "consecutive").content.settled == app.view._line()
        await pilot.press("3")
        await until(pilot, lambda: app.view.plot.map is not None)
        assert app.view.plot.hidden == {"tiny"}  # hidden on one plot, hidden on all
        await pilot.press("4", "Z", "/", *"run:small", "enter")
        assert {d.curve.run for d in panel(app, "loss").drawn} == {"small"}
        assert app.view.label() == "small"
        app.set_filter("run:none")
        await pilot.press("3")
        await until(
            pilot, lambda: "all are hidden or filtered out: Z shows, esc clears the filter" in text_of(app)
        )
        await pilot.press("4")
        app.set_filter("")
        assert app.view.label() == "tiny"
        app.selection.a, app.selection.b = "tiny@100", "small@100"
        app.selection_changed()
        await until(pilot, lambda: panel(app, "marked").drawn)
        await until(pilot, lambda: [c.curve.run for c in panel(app, "between").drawn] == ["small"])
        assert panel(app, "between").drawn[0].curve.against == "tiny"
        write_csv(tmp_path / "curves.csv", rows_of(app))
        with (tmp_path / "curves.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        truth = app.view.found.pair("tiny@300", "small@300")
        one = next(r for r in rows if r["against"] == "tiny" and r["step"] == "300")
        assert one["checkpoint"] == "small@300"
        assert (float(one["value"]), float(one["standard_error"])) == (truth.value, truth.se)


async def test_what_is_missing_is_said_with_its_key(make_app: MakeApp, until) -> None:
    class Bare(FakeWorkspace):
        def weight_distances(self, compute: bool = False, window: int = 10, progress: object = None) -> dict:
            return {}

    app = make_app(Bare(names=checkpoints((0,))[:1]))
    async with app.run_test(size=(200, 60)) as pilot:
        await opened(app, pilot, until)
        assert "mark it with a" in text_of(app) and "press W to compute them" in text_of(app)
        text = " ".join([*(p.note for p in app.view.panels), *lines_of(app)])
        for words in ("no run has two scored checkpoints", "mark it with a", "press W to compute them", "no run is scored with two seeds",
                      "shortest window", "settling is undefined"):  # fmt: skip
            assert words in text, words
        assert panel(app, "loss").drawn  # one point is a point


async def test_models_without_steps_are_left_out_in_words(make_app: MakeApp, until) -> None:
    names = [*checkpoints((0, 1, 2)), replace(checkpoints((0,))[0], run="plain", step=None)]
    app = make_app(FakeWorkspace(names=names))
    async with app.run_test(size=(200, 60)) as pilot:
        await opened(app, pilot, until)
        await until(pilot, lambda: "1 model without steps has no curve" in text_of(app))


async def test_a_spike_is_flagged_as_a_watch_would(make_app: MakeApp, until) -> None:
    class Spiked(FakeWorkspace):
        def map(self, *args: object, **how: object):
            found = super().map(*args, **how)
            loglik = found.loglik_KN.copy()
            rows = [k for k, p in enumerate(found.points) if p.run == "tiny" and (p.step or 0) >= 1000]
            loglik[rows] += np.random.default_rng(0).normal(-40, 200, loglik.shape[1])
            return replace(found, loglik_KN=loglik)

    app = make_app(Spiked())
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until)
        assert ("tiny", 1000) in panel(app, "consecutive").content.spikes
        app.set_cursor("tiny@1000")
        await until(pilot, lambda: "times the median before it" in text_of(app))


async def test_not_a_number_is_a_gap(make_app: MakeApp, until) -> None:
    class Gap(FakeWorkspace):
        def map(self, *args: object, **how: object):
            found = super().map(*args, **how)
            loglik = found.loglik_KN.copy()
            loglik[found.row("tiny@300")] = np.nan
            return replace(found, loglik_KN=loglik)

    app = make_app(Gap())
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until)
        app.set_cursor("tiny@300")
        await until(pilot, lambda: "undefined" in text_of(app))


async def test_it_follows_a_job(make_app: MakeApp, until) -> None:
    workspace = FakeWorkspace(scored=30)
    app = make_app(workspace)
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "t")
        assert app.selection.cursor == app.snapshot.newest_done[-1]
        drawn = sum(len(d.steps) for d in panel(app, "loss").drawn)
        workspace.count, workspace.change = 35, 2
        await pilot.press("r")
        await until(pilot, lambda: sum(len(d.steps) for d in panel(app, "loss").drawn) == drawn + 5)


async def test_without_colours_published_medians_do_not_look_like_a_run(make_app: MakeApp, until) -> None:
    for color in (True, False):
        app = make_app(color=color)
        async with app.run_test(size=(160, 50)) as pilot:
            await opened(app, pilot, until)
            made = panel(app, "consecutive")
            made._words = [(0, "seed 0.12", PUBLISHED_LINE), (0, "settled at 300", SETTLED_LINE)]
            said = [text for _, text, _ in made.labels()][:2]
            assert said == ["seed 0.12" if color else "[seed 0.12]", "settled at 300"]


async def test_from_a_model_without_a_curve_words_are_about_the_longest_run(make_app: MakeApp, until) -> None:
    names = [replace(checkpoints((0,))[0], run="alone", step=64), *checkpoints()]
    app = make_app(FakeWorkspace(names=names))
    async with app.run_test(size=(80, 24)) as pilot:
        await opened(app, pilot, until)
        assert app.selection.cursor == "alone@64"
        await until(pilot, lambda: "tiny settled at step" in text_of(app))
        await pilot.press("l")
        assert app.selection.cursor == "tiny@1"


async def test_the_curves_in_words_are_those_of_today(make_app: MakeApp, until) -> None:
    """Also where a new list of curves takes the place of an old one in memory."""
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until)
        curves, shown = app.view.trajectories[:2] * 10, []
        for t in curves:
            app.view.trajectories = [t]
            shown.append(next(iter(app.view._shown())))
            app.view.trajectories = ()  # the next list may get the place of the one that ends here
        assert shown == [t.label for t in curves]


async def test_up_and_down_go_round_the_runs(make_app: MakeApp, until) -> None:
    names = [c for c in checkpoints() if c.run != "tuned" and c.quantization == "none"]
    app = make_app(FakeWorkspace(names=names))
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until)
        app.view.focus_on(panel(app, "loss"))
        app.set_cursor("tiny@1400")
        last = {d.curve.run: d.values[-1] for d in panel(app, "loss").drawn}
        downwards = sorted(last, key=last.__getitem__, reverse=True)
        seen = []
        for _ in downwards:
            await pilot.press("j")
            seen.append(app.selection.cursor.partition("@")[0])
        begin = downwards.index("tiny") + 1
        assert seen == downwards[begin:] + downwards[:begin]
        await pilot.press("j", "k")
        assert app.selection.cursor == "tiny@1400"


async def test_scales_level_and_window_are_kept(make_app: MakeApp, until, tmp_path: Path) -> None:
    memory = Memory(tmp_path / "view.json")
    app = make_app(memory=memory)
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "L", "Y", "v", "w", "q")
    again = make_app(memory=memory)
    async with again.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: again.snapshot.loaded and all_there(again))
        shown = [(p.x_scale, p.y_scale) for p in again.view.panels[:2]]
        assert shown == [("linear", "linear"), ("linear", "linear")]
        assert panel(again, "last").y_scale == "log"
        assert (again.view.level, again.view.window) == (again.view.settled.levels[0], 20)
        await pilot.press("1", "q")
    stored = memory.load(app.reader.path)
    never_shown = make_app(memory=memory)
    async with never_shown.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: never_shown.snapshot.loaded)
        await pilot.press("q")
    assert memory.load(app.reader.path) == stored and stored["curves.window"] == 20


@pytest.mark.parametrize("restored", [True, False])
async def test_an_end_before_the_workspace_is_read_changes_nothing_that_was_stored(
    make_app: MakeApp, until, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, restored: bool
) -> None:
    memory = Memory(tmp_path / "view.json")
    app = make_app(memory=memory)
    async with app.run_test(size=(120, 40)) as pilot:
        await opened(app, pilot, until, "j", "a", "j", "b", "q")
    stored = memory.load(app.reader.path)
    assert stored["screen"] == "curves" and stored["cursor"] and stored["a"] and stored["b"]
    again = make_app(memory=memory)
    if restored:
        monkeypatch.setattr(KltuiApp, "_watch", lambda app: asyncio.sleep(0))  # nothing is read
        async with again.run_test(size=(120, 40)):
            assert again.screen_name == "curves" and not again.snapshot.loaded
            again._leave_on(signal.SIGTERM)
    else:
        again._leave_on(signal.SIGTERM)
    assert again.return_value == 128 + signal.SIGTERM
    assert memory.load(app.reader.path) == stored
