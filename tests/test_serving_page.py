"""The page of the server, used in a real browser on real recordings."""

import asyncio
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browser import DESKTOP, LISTEN, SLOW, Visit, choose, foreign, running, until, visit
from page_server import describe, diarize, page_server, pipeline_process
from playwright.sync_api import expect
from voiceprint_corpus import PIPELINE, Voices, conversations, write_dataset

from raydiar.diarization import read_rttm
from raydiar.serving.http.routes import server as routes_server
from raydiar.serving.jobs.limits import QueueLimits

HOSTILE = "<img src=x onerror=window.hacked=1>"
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "has_touch": True}


@pytest.fixture(scope="module")
def browser():
    with running() as browser:
        yield browser


@pytest.fixture(scope="module")
def executor(browser):  # in this order: no networks are loaded where there is no browser
    with pipeline_process() as executor:
        yield executor


@pytest.fixture(scope="module")
def search(executor, sample_wav, tmp_path_factory):
    """A search among 30 strangers, and the people of the sample in a recording of bad name."""
    from raydiar.serving.deployments.search import VoiceSearch
    from raydiar.voiceprints import builder

    folder = tmp_path_factory.mktemp("corpus")
    pipeline = PIPELINE | executor.submit(describe).result()
    talk, _ = executor.submit(diarize, str(sample_wav), {}).result()
    strangers, _ = conversations(Voices(30), 15)
    recordings = [replace(talk, uri=HOSTILE), *strangers]
    dataset = write_dataset(folder / "dataset", recordings, pipeline=pipeline)
    builder.build(str(folder / "index"), [dataset])
    voices = VoiceSearch(str(folder / "index"), pipeline["embedding"], pipeline["embedding_mode"])

    async def search(*arguments):
        return await asyncio.to_thread(voices, *arguments)

    return search


@pytest.fixture(scope="module")
def server(executor, search, tmp_path_factory):
    with page_server(tmp_path_factory.mktemp("server"), executor, search) as (services, worker):
        yield services, worker


@pytest.fixture(scope="module")
def url(server) -> str:
    return server[0].media.public_url + "/"


@pytest.fixture(scope="module")
def finished(browser, url, sample_wav):
    """A tab in which the sample was dropped, and its speakers found."""
    context = browser.new_context(**DESKTOP)
    tab = visit(context, url)
    drop(tab.page, sample_wav, "our talk.wav")
    tab.page.click("#go")
    expect(tab.page.locator("#result")).to_be_visible(timeout=SLOW)
    yield tab
    context.close()


@pytest.fixture
def tab(finished, url):
    """The same in each test, without the names that another gave."""
    finished.page.evaluate("""() => {
        const jobs = JSON.parse(localStorage["raydiar.jobs"]);
        localStorage["raydiar.jobs"] = JSON.stringify(jobs.map((job) => ({...job, names: {}})));
        const at = location.hash;
        location.hash = "";
        location.hash = at;
    }""")
    expect(finished.page.locator("#result")).to_be_visible()
    expect(finished.page.locator("#length")).to_have_text("0:30")
    yield finished
    check(finished, url)


@pytest.fixture
def open_page(browser):
    """Open a page in a browser of its own; in the end, nothing may have gone wrong there."""
    opened = []

    def open_page(url: str, **options) -> Visit:
        context = browser.new_context(**(DESKTOP | options))
        opened.append((context, visit(context, url), url))
        return opened[-1][1]

    yield open_page
    for context, tab, url in opened:
        check(tab, url)
        context.close()


def check(tab: Visit, url: str) -> None:
    assert tab.problems == []
    assert foreign(tab.urls, url) == []
    assert tab.page.evaluate("window.hacked") is None
    assert tab.page.locator("img").count() == 0


def drop(page, path: Path, name: str) -> None:
    """Drop a file on the page, as a file manager does."""
    numbers = list(path.read_bytes())
    data = page.evaluate_handle(
        """([numbers, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(numbers)], name, {type: "audio/wav"}));
            return transfer;
        }""",
        [numbers, name],
    )
    page.dispatch_event("#drop", "dragenter", {"dataTransfer": data})
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})


def job_of(tab: Visit, server):
    return server[0].jobs.get(tab.page.url.split("#job=")[1], "local")


def output_of(tab: Visit, server) -> dict:
    return json.loads(job_of(tab, server).output)


def rgb(page, name: str) -> list[int]:
    """A colour of the style sheet."""
    style = "getComputedStyle(document.documentElement).getPropertyValue(name)"
    color = page.evaluate(f"(name) => {style}", f"--{name}").strip()
    return [int(color[at : at + 2], 16) for at in (1, 3, 5)]


def seconds(clock: str) -> float:
    *_, minutes, rest = ["0", *clock.split(":")]
    return 60 * int(minutes) + float(rest)


def sound(page) -> dict:
    """What is heard; the page's only audio element is in no document."""
    return page.evaluate("({time: window.sound.currentTime, playing: !window.sound.paused})")


PIXELS = """(points) => {
    const canvas = document.querySelector("canvas");
    const {left, top} = canvas.getBoundingClientRect();
    const {width, height} = canvas;
    const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    return points.map(({x, y}) => {
        const at = 4 * (Math.floor(y - top) * width + Math.floor(x - left));
        return [...pixels.slice(at, at + 4)];
    });
}"""


def choose_turn(page, number: int) -> None:
    page.focus("[role=listbox]")
    page.keyboard.press("Home")
    for _ in range(number):
        page.keyboard.press("ArrowRight")


# -- the result ------------------------------------------------------------------------------------


def test_the_timeline_shows_the_turns_of_the_job(tab, server):
    page, output = tab.page, output_of(tab, server)
    assert {"diarization", "exclusiveDiarization", "speakerVoiceprints", "confidence"} <= set(
        output
    )
    turns = output["diarization"]
    labels = sorted({turn["speaker"] for turn in turns})
    assert len(labels) == 2
    expect(page.locator(".lane-name")).to_have_text(labels)
    page.focus("[role=listbox]")
    strip = page.locator(".strip").bounding_box()
    painted = []
    for turn in turns:
        option = page.locator("[role=option]")
        speaker, start, end = re.fullmatch(r"(.*), (.*) to (.*)", option.text_content()).groups()
        assert speaker == turn["speaker"]
        assert seconds(start) == pytest.approx(turn["start"], abs=0.051)
        assert seconds(end) == pytest.approx(turn["end"], abs=0.051)
        box = option.bounding_box()
        left = strip["x"] + turn["start"] / 30 * strip["width"]
        assert box["x"] == pytest.approx(left, abs=1.5)
        if box["width"] > 3:  # thinner ones are blended with what is beneath
            middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
            sure = turn["confidence"][turn["speaker"]]
            painted.append((middle, labels.index(turn["speaker"]), 0.4 + 0.006 * sure))
        page.keyboard.press("ArrowRight")
    assert option.get_attribute("aria-posinset") == str(len(turns))
    assert len(painted) > 8
    colors = page.evaluate(PIXELS, [middle for middle, *_ in painted])
    ground = np.array(rgb(page, "lane"))
    for color, (_, lane, opacity) in zip(colors, painted, strict=True):
        # the paler the less sure
        expected = opacity * np.array(rgb(page, f"speaker-{lane}")) + (1 - opacity) * ground
        assert color[:3] == pytest.approx(expected, abs=3)
    tab.screenshot("result-light")


def test_the_table_adds_up(tab, server):
    turns = output_of(tab, server)["diarization"]
    total = sum(turn["end"] - turn["start"] for turn in turns)
    for label in ("SPEAKER_00", "SPEAKER_01"):
        own = [turn["end"] - turn["start"] for turn in turns if turn["speaker"] == label]
        row = tab.page.locator("tbody tr", has=tab.page.get_by_label(f"Name of {label}"))
        cells = row.locator("td").all_text_contents()
        assert cells[0].replace("\xa0", " ") == f"{round(sum(own), 1):g} s"
        assert cells[1].replace("\xa0", " ") == f"{round(100 * sum(own) / total)} %"
        assert cells[2] == str(len(own))


def test_a_click_plays_a_turn_to_its_end(tab, server):
    page = tab.page
    page.evaluate(LISTEN)
    turns = output_of(tab, server)["diarization"]
    number = next(n for n, turn in enumerate(turns) if 1 < turn["end"] - turn["start"] < 2)
    turn = turns[number]
    choose_turn(page, number)
    box = page.locator("[role=option]").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    until(page, f"window.sound?.currentTime > {turn['start'] + 0.3}")
    assert turn["start"] < sound(page)["time"] <= turn["end"] + 0.3
    expect(page.locator("#now")).to_contain_text(turn["speaker"])
    until(page, "window.sound.paused")
    assert sound(page)["time"] == pytest.approx(turn["end"], abs=0.3)
    # the playhead stands where the sound stopped
    strip, head = (page.locator(name).bounding_box() for name in (".strip", ".playhead"))
    shown = (head["x"] + 1 - strip["x"]) / strip["width"] * 30
    assert shown == pytest.approx(turn["end"], abs=0.3)


def test_a_click_beside_the_turns_moves_the_playhead(tab):
    page = tab.page
    box = page.locator(".scroller").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.1, box["y"] + 10)
    expect(page.locator("#time")).to_have_text("0:03")
    page.evaluate(LISTEN)
    page.click("#play")
    until(page, "window.sound?.currentTime > 3.1")
    page.click("#play")
    assert not sound(page)["playing"]


def test_zoomed_in_the_timeline_scrolls_and_follows_the_sound(tab, server):
    page = tab.page
    for _ in range(4):
        page.click("#zoom-in")
    size = page.evaluate("(({scrollWidth, clientWidth}) => scrollWidth / clientWidth)"
                         "(document.querySelector('.scroller'))")  # fmt: skip
    assert size > 5
    turns = output_of(tab, server)["diarization"]
    page.focus("[role=listbox]")
    page.keyboard.press("End")
    last, view = (page.locator(name).bounding_box() for name in ("[role=option]", ".scroller"))
    assert view["x"] <= last["x"] < view["x"] + view["width"]
    page.keyboard.press("Home")
    first = page.locator("[role=option]").bounding_box()
    assert view["x"] <= first["x"] < view["x"] + view["width"]
    page.evaluate(LISTEN)
    page.keyboard.press("Enter")
    until(page, f"window.sound?.currentTime >= {turns[0]['start']}")
    expect(page.locator("[role=listbox]")).to_be_focused()
    page.click("#zoom-fit")
    strip = page.locator(".strip").bounding_box()
    assert strip["width"] == pytest.approx(view["width"], abs=1)


def test_names_go_into_downloads(tab, server, tmp_path):
    page, output = tab.page, output_of(tab, server)
    names = {"SPEAKER_00": "Ann  Lee", "SPEAKER_01": HOSTILE}
    for label, name in names.items():
        page.get_by_label(f"Name of {label}").fill(name)
        page.keyboard.press("Enter")
    expect(page.locator(".lane-name")).to_have_text(["Ann Lee", HOSTILE])
    with page.expect_download() as download:
        page.click("#rttm")
    assert download.value.suggested_filename == "our talk.rttm"
    download.value.save_as(tmp_path / "talk.rttm")
    [(uri, read)] = read_rttm(tmp_path / "talk.rttm").items()
    assert uri == "our_talk"
    in_rttm = {"SPEAKER_00": "Ann_Lee", "SPEAKER_01": HOSTILE.replace(" ", "_")}
    assert [(turn.speaker, round(turn.start, 3), round(turn.end, 3)) for turn in read.turns] == [
        (in_rttm[turn["speaker"]], turn["start"], turn["end"]) for turn in output["diarization"]
    ]
    with page.expect_download() as download:
        page.click("#json")
    document = json.loads(Path(download.value.path()).read_text())
    assert document["recording"] == "our talk.wav"
    for part in ("diarization", "exclusiveDiarization"):
        assert document[part] == [
            turn
            | {"speaker": names[turn["speaker"]]}
            | {"confidence": {names[turn["speaker"]]: turn["confidence"][turn["speaker"]]}}
            for turn in output[part]
        ]
    voiceprints = output["speakerVoiceprints"]
    assert document["speakerVoiceprints"] == {names[name]: voiceprints[name] for name in names}
    assert document["confidence"] == output["confidence"]


def test_two_speakers_cannot_have_one_name(tab):
    first, second = (tab.page.get_by_label(f"Name of SPEAKER_0{n}") for n in (0, 1))
    first.fill("Ann Lee")
    second.fill("Ann_Lee")  # in RTTM the same
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator("#name-problem")).to_contain_text("called Ann_Lee already")
    expect(second).to_have_value("SPEAKER_01")
    second.fill("Bob")
    tab.page.keyboard.press("Enter")
    expect(tab.page.locator("#name-problem")).to_be_hidden()


def test_after_a_reload_all_is_there_and_plays_from_the_server(tab, url):
    page = tab.page
    page.get_by_label("Name of SPEAKER_01").fill("Bob")
    page.keyboard.press("Enter")
    again = visit(page.context, page.url)
    page = again.page
    expect(page.locator("#result-title")).to_have_text("our talk.wav")
    expect(page.locator(".lane-name")).to_have_text(["SPEAKER_00", "Bob"])
    assert page.locator("canvas").bounding_box()["height"] > 150  # with the waveform
    page.evaluate(LISTEN)
    choose_turn(page, 5)
    page.keyboard.press("Enter")
    until(page, "window.sound?.currentTime > 0.2 && !window.sound.paused")
    [sound_url, *_] = [one for one in again.urls if "/v1/media/download/" in one]
    assert "signature=" in sound_url
    page.click(".brand")
    expect(page.locator("#recent li")).to_contain_text(["our talk.wav"])
    page.click("text=our talk.wav")
    expect(page.locator("#result")).to_be_visible()
    check(again, url)
    page.close()


def test_where_else_a_voice_speaks(tab):
    page = tab.page
    page.get_by_label("Name of SPEAKER_00").fill(HOSTILE)
    page.keyboard.press("Enter")
    page.get_by_text("Where else does this voice speak?").first.click()
    expect(page.locator("#matches-title")).to_have_text(f"Where else {HOSTILE} speaks")
    best = page.locator("#matches li").first
    expect(best).to_contain_text(HOSTILE)  # the recording's name
    expect(best).to_contain_text("SPEAKER_00 · at 0:0")
    expect(best).to_contain_text("over 99\xa0% sure")
    assert page.locator("#matches li").count() <= 2  # none of the strangers
    tab.screenshot("matches")
    page.click("#matches-close")
    expect(page.locator("#matches")).to_be_hidden()


# -- the way there ---------------------------------------------------------------------------------


def test_with_the_keyboard_alone(open_page, url, sample_wav):
    tab = open_page(url)
    keyboard, page = tab.page.keyboard, tab.page
    # from now on: a listener that comes with the key press can be too late for the browser
    page.on("filechooser", lambda _: None)
    page.evaluate(LISTEN)
    page.locator("#recent").wait_for(state="hidden")
    keyboard.press("Tab")
    expect(page.locator("#file")).to_be_focused()
    with page.expect_file_chooser() as chooser:
        keyboard.press("Enter")
    chooser.value.set_files(sample_wav)
    expect(page.locator("#go")).to_be_focused()
    keyboard.press("Enter")
    expect(page.locator("#progress-title")).to_be_focused()
    expect(page.locator("#result-title")).to_be_focused(timeout=SLOW)
    expect(page.locator("#announce")).to_have_text("The speakers are found.")
    for name in ("#rttm", "#json", "#more", "[role=listbox]"):
        keyboard.press("Tab")
        expect(page.locator(name)).to_be_focused()
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
    keyboard.press("ArrowRight")
    keyboard.press("ArrowDown")
    keyboard.press(" ")
    until(page, "window.sound?.currentTime > 0")
    for name in ("#play", "#speed", "#skip", "#zoom-out", "#zoom-fit", "#zoom-in", "#edit"):
        keyboard.press("Tab")
        expect(page.locator(name)).to_be_focused()
    keyboard.press("Tab")
    expect(page.get_by_label("Name of SPEAKER_00")).to_be_focused()
    keyboard.press("Control+A")
    keyboard.type("Ann")
    keyboard.press("Enter")
    expect(page.locator(".lane-name").first).to_have_text("Ann")
    page.focus("#rttm")
    with page.expect_download() as download:
        keyboard.press("Enter")
    assert " Ann " in Path(download.value.path()).read_text()


def test_a_running_job_shows_progress_and_can_be_canceled(open_page, server, url, sample_wav):
    _, worker = server
    worker.go.clear()
    try:
        tab = open_page(url)
        page = tab.page
        choose(page, sample_wav)
        expect(page.locator("#phase")).to_have_text("Finding the speakers")
        expect(page.locator("#amount")).to_have_text("40\xa0%")
        assert page.locator("#bar").get_attribute("value") == "40"
        expect(page.locator("#announce")).to_have_text("Finding the speakers: 25\xa0%")
        tab.screenshot("progress")
        page.reload()  # which does not lose the job
        expect(page.locator("#amount")).to_have_text("40\xa0%")
        job = job_of(tab, server)
        page.click("#cancel")
        expect(page.locator("#notice")).to_contain_text("Canceled.")
        assert server[0].jobs.get(job.job_id, "local").status == "canceled"
        expect(page.locator("#recent li")).to_contain_text("canceled")
        page.click("#recent button")
        expect(page.locator("#recent")).to_be_hidden()
    finally:
        worker.go.set()


def test_the_number_of_speakers_reaches_the_server(open_page, server, url, sample_wav):
    page = open_page(url).page
    page.fill("#max-speakers", "1")
    expect(page.locator("#between")).to_be_checked()
    page.fill("#min-speakers", "2")
    choose(page, sample_wav)
    expect(page.locator("#choose-problem")).to_contain_text("larger than the second")
    page.fill("#num-speakers", "1")
    expect(page.locator("#exactly")).to_be_checked()
    page.click("#go")
    expect(page.locator("tbody tr")).to_have_count(1, timeout=SLOW)
    expect(page.locator("#summary")).to_contain_text("1 speaker ·")


def test_names_of_files_are_only_text(open_page, url, talk, tmp_path):
    path = tmp_path / f"{HOSTILE}.wav"
    path.write_bytes(talk)
    tab = open_page(url)
    page = tab.page
    page.set_input_files("#file", path)
    expect(page.locator("#file-name")).to_have_text(path.name)
    page.click("#go")
    expect(page.locator("#result-title")).to_have_text(path.name, timeout=SLOW)
    page.click("#new")
    expect(page.locator("#recent li a")).to_have_text(path.name)


# -- when something is wrong -----------------------------------------------------------------------


def test_what_is_no_recording_is_named(open_page, url, tmp_path):
    path = tmp_path / "notes of tuesday.txt"
    path.write_text("no sound at all\n" * 100)
    page = open_page(url).page
    choose(page, path)
    notice = page.locator("#notice")
    expect(notice).to_contain_text("could not be done. notes-of-tuesday.txt", timeout=SLOW)
    expect(page.locator("#file-name")).to_have_text(path.name)


def test_silence_has_no_speakers(open_page, url, tmp_path):
    from audio_files import write

    path = write(tmp_path / "silence.wav", np.zeros(5 * 16000), 16000, "pcm_s16le")
    tab = open_page(url)
    choose(tab.page, path)
    expect(tab.page.locator("#summary")).to_contain_text("Nobody speaks", timeout=SLOW)
    tab.screenshot("silence")


def test_refusals_are_told_in_words(open_page, server, url, sample_wav):
    tab = open_page(url)
    page = tab.page
    page.fill("#num-speakers", "1000")
    choose(page, sample_wav)
    expect(page.locator("#notice")).to_contain_text("less than or equal to 100")
    expect(page.locator("#file-name")).to_have_text(sample_wav.name)
    expect(page.locator("#notice button")).to_be_hidden()
    tab.screenshot("refused")
    tab.expect_problems("400")


def test_a_busy_server_says_when_to_come_back(open_page, executor, sample_wav, tmp_path):
    limits = QueueLimits(max_jobs=1, retry_after=30.0)
    with page_server(tmp_path, executor, limits=limits) as (services, worker):
        worker.go.clear()
        services.jobs.create("local", "diarize", {}, "media://running")
        while services.jobs.queue_state().queued_jobs:
            time.sleep(0.01)
        services.jobs.create("local", "diarize", {}, "media://waiting")
        tab = open_page(services.media.public_url)
        choose(tab.page, sample_wav)
        expect(tab.page.locator("#notice")).to_contain_text("busy. Come back in 30\xa0s.")
        tab.expect_problems("429")


def test_what_is_too_large_is_not_sent(open_page, executor, sample_wav, tmp_path):
    with page_server(tmp_path, executor, max_bytes=100_000) as (services, _):
        tab = open_page(services.media.public_url)
        choose(tab.page, sample_wav)
        notice = tab.page.locator("#notice")
        expect(notice).to_contain_text("too large for this server. It has 960\xa0kB, and 100\xa0kB")
        assert not [url for url in tab.urls if "/v1/media/upload/" in url]


def test_a_server_that_is_gone_is_not_waited_for(open_page, executor, sample_wav, tmp_path):
    with page_server(tmp_path, executor) as (services, _):
        tab = open_page(services.media.public_url)
        tab.page.set_input_files("#file", sample_wav)
        expect(tab.page.locator("#go")).to_be_enabled()
        tab.page.route("**/v1/**", lambda route: route.abort())
        tab.page.click("#go")
        expect(tab.page.locator("#notice")).to_contain_text("does not answer")
        tab.expect_problems("ERR_FAILED")
        tab.page.unroute_all()
        tab.page.click("#notice button")
        expect(tab.page.locator("#result")).to_be_visible(timeout=SLOW)


def test_a_key_is_asked_for_and_stays_in_the_tab(open_page, executor, talk, tmp_path):
    path = tmp_path / "talk.wav"
    path.write_bytes(talk)
    with page_server(tmp_path, executor, anonymous=False) as (services, _):
        _, secret = services.keys.create("ann")
        tab = open_page(services.media.public_url)
        page = tab.page
        expect(page.locator("#key")).to_be_visible()
        tab.screenshot("key")
        page.get_by_label("API key").fill("rdr_wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key-problem")).to_have_text("The server does not know this key.")
        page.get_by_label("API key").fill(secret)
        page.keyboard.press("Enter")
        expect(page.locator("#key")).to_be_hidden()
        choose(page, path)
        expect(page.locator("#result")).to_be_visible(timeout=SLOW)
        page.reload()  # the key is still known
        expect(page.locator("#result")).to_be_visible()
        page.evaluate(LISTEN)
        page.click("#play")
        until(page, "window.sound?.currentTime > 0.1")
        assert not [url for url in tab.urls if secret in url]
        assert secret not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
        page.click("#forget-key")
        assert secret not in page.evaluate("JSON.stringify(sessionStorage)")
        page.reload()
        expect(page.locator("#key")).to_be_visible()
        page.click("#key-cancel")
        expect(page.locator("#notice")).to_contain_text("needs an API key")
        refusals = sum("401" in problem for problem in tab.problems)
        tab.expect_problems(*["401"] * refusals)


# -- looks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_cut_off_on_a_phone(open_page, url, sample_wav, scheme):
    tab = open_page(url, color_scheme=scheme, **PHONE)
    page = tab.page

    def fits(name: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        tab.screenshot(f"phone-{scheme}-{name}")

    fits("start")
    choose(page, sample_wav)
    fits("progress")
    expect(page.locator("#result")).to_be_visible(timeout=SLOW)
    page.get_by_label("Name of SPEAKER_00").fill("Anna Maria González de la Vega y Arana")
    page.keyboard.press("Enter")
    page.get_by_text("Where else does this voice speak?").first.click()
    expect(page.locator("#matches li").first).to_be_visible()
    fits("result")


def test_the_dark_scheme_follows_the_system(open_page, url, finished):
    tab = open_page(url, color_scheme="dark")
    state = finished.page.evaluate("localStorage['raydiar.jobs']")
    tab.page.evaluate("(state) => localStorage.setItem('raydiar.jobs', state)", state)
    tab.page.reload()
    tab.screenshot("start-dark")
    tab.page.click("text=our talk.wav")
    expect(tab.page.locator("#result")).to_be_visible()
    choose_turn(tab.page, 5)
    tab.screenshot("result-dark")


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_nothing_moves_where_motion_is_not_wanted(open_page, server, url, sample_wav, motion):
    services, worker = server
    worker.go.clear()
    try:
        services.jobs.create("local", "diarize", {}, "media://before")  # the worker is busy
        page = open_page(url, reduced_motion=motion).page
        choose(page, sample_wav)
        expect(page.locator("#phase")).to_have_text("Waiting until the server is free")
        moving = page.evaluate("document.getAnimations().length")
        assert (moving == 0) == (motion == "reduce")
        page.click("#cancel")
        expect(page.locator("#notice")).to_contain_text("Canceled.")
    finally:
        worker.go.set()


# Machado, Oliveira, Fernandes (2009): how linear RGB looks to who lacks red, green or blue cones.
VISION = {
    "normal": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def linear(color) -> np.ndarray:
    values = np.array(color) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one, other) -> float:
    """WCAG 2.2's contrast ratio of two sRGB colours."""
    light = sorted(linear(color) @ [0.2126, 0.7152, 0.0722] for color in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


def cielab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear RGB (D65)."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.clip(rgb, 0, 1) @ np.transpose(to_xyz) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_can_be_told_apart_and_texts_read(open_page, url, scheme):
    page = open_page(url, color_scheme=scheme).page
    card = rgb(page, "card")
    speakers = np.array([rgb(page, f"speaker-{number}") for number in range(8)])
    assert min(contrast(color, card) for color in speakers) >= 3
    for vision, matrix in VISION.items():
        seen = cielab(linear(speakers) @ np.transpose(matrix))
        distances = np.linalg.norm(seen[:, None] - seen, axis=-1)[np.triu_indices(8, 1)]
        assert distances.min() > 25, vision
    for text in ("text", "quiet", "accent", "bad"):
        for ground in ("page", "card"):
            assert contrast(rgb(page, text), rgb(page, ground)) >= 4.5, (text, ground)
    assert contrast(rgb(page, "on-accent"), rgb(page, "accent")) >= 4.5
    assert contrast(rgb(page, "bad"), rgb(page, "bad-soft")) >= 4.5
    assert contrast(rgb(page, "edge"), card) >= 3


def test_no_file_of_the_page_is_missing_or_left_over():
    web = routes_server.WEB
    named = set()
    for path in web.iterdir():
        text = path.read_text()
        found = re.findall(r'(?:src|href)="web/([\w.]+)"|from "\./([\w.]+)"', text)
        named |= {one or other for one, other in found}
    named.add("reference.css")  # of /docs
    assert named == {path.name for path in web.iterdir()} - {"index.html"}


# -- corrections -----------------------------------------------------------------------------------


@pytest.fixture
def editing(open_page, url, sample_wav):
    """A tab of its own with the sample's speakers, in which turns are corrected."""
    tab = open_page(url)
    choose(tab.page, sample_wav)
    expect(tab.page.locator("#result")).to_be_visible(timeout=SLOW)
    expect(tab.page.locator("#length")).to_have_text("0:30")
    tab.page.click("#edit")
    return tab


def corrected(tab: Visit, server) -> list[dict] | None:
    """Turns as the server keeps them."""
    saved = server[0].versions.get(tab.page.url.split("#job=")[1])
    return saved and saved.document["turns"]


def saved(tab: Visit) -> None:
    expect(tab.page.locator("#saved")).to_have_text("All changes are saved", timeout=SLOW)


def seek(page, seconds: float) -> None:
    box = page.locator(".strip").bounding_box()
    page.mouse.click(box["x"] + box["width"] * seconds / 30, box["y"] + 10)


def test_turns_are_corrected_and_kept_on_the_server(editing, server):
    page, machine = editing.page, output_of(editing, server)["diarization"]
    assert corrected(editing, server) is None
    number, long = max(enumerate(machine), key=lambda pair: pair[1]["end"] - pair[1]["start"])
    choose_turn(page, number)
    # its end is dragged two seconds back
    box = page.locator("[role=option]").bounding_box()
    strip = page.locator(".strip").bounding_box()
    middle, end = box["y"] + box["height"] / 2, box["x"] + box["width"]
    page.mouse.move(end, middle)
    page.mouse.down()
    page.mouse.move(end - strip["width"] / 30, middle, steps=3)
    page.mouse.move(end - 2 * strip["width"] / 30, middle, steps=3)
    editing.screenshot("editing-drag")
    page.mouse.up()
    saved(editing)
    [shorter] = [turn for turn in corrected(editing, server) if turn["start"] == long["start"]]
    assert shorter["end"] == pytest.approx(long["end"] - 2, abs=0.1)
    # split in the middle of what is left
    seek(page, (long["start"] + shorter["end"]) / 2)
    page.click("#split")
    saved(editing)
    assert len(corrected(editing, server)) == len(machine) + 1
    # one half is given to a new speaker, and the other deleted
    page.select_option("#give", "new")
    expect(page.locator(".lane-name")).to_have_count(3)
    saved(editing)
    assert "SPEAKER_02" in {turn["speaker"] for turn in corrected(editing, server)}
    editing.screenshot("editing-new-speaker")
    page.keyboard.press("Delete")
    saved(editing)
    assert len(corrected(editing, server)) == len(machine)
    # all of it undone, and done again
    for _ in range(4):
        page.click("#undo")
    expect(page.locator("#undo")).to_be_disabled()
    saved(editing)
    assert [(t["start"], t["end"], t["speaker"]) for t in corrected(editing, server)] == [
        (t["start"], t["end"], t["speaker"]) for t in machine
    ]
    page.keyboard.press("Control+Shift+z")
    saved(editing)
    assert shorter in corrected(editing, server)
    # a reload shows what was saved; the machine's result is there still
    page.reload()
    expect(page.locator("#result")).to_be_visible(timeout=SLOW)
    expect(page.locator("#machine")).to_be_enabled()
    with page.expect_download() as download:
        page.click("#rttm")
    [read] = read_rttm(download.value.path()).values()
    assert shorter["end"] in [round(turn.end, 3) for turn in read.turns]
    assert output_of(editing, server)["diarization"] == machine


def test_a_turn_is_drawn_where_there_was_none(editing, server):
    page, machine = editing.page, output_of(editing, server)["diarization"]
    quiet = min(turn["start"] for turn in machine if turn["speaker"] == "SPEAKER_01")
    assert quiet > 2
    strip = page.locator(".strip").bounding_box()
    lane = page.locator(".lane-name").nth(1).bounding_box()
    at = [strip["x"] + strip["width"] * seconds / 30 for seconds in (0.5, 1.5)]
    y = lane["y"] + lane["height"] / 2
    page.mouse.move(at[0], y)
    page.mouse.down()
    page.mouse.move(at[1], y, steps=5)
    page.mouse.up()
    saved(editing)
    first = min(
        (turn for turn in corrected(editing, server) if turn["speaker"] == "SPEAKER_01"),
        key=lambda turn: turn["start"],
    )
    assert (first["start"], first["end"]) == pytest.approx((0.5, 1.5), abs=0.1)


def test_two_names_alike_offer_to_be_one_speaker(editing, server):
    page = editing.page
    page.get_by_label("Name of SPEAKER_00").fill("Ann")
    page.keyboard.press("Enter")
    page.get_by_label("Name of SPEAKER_01").fill("Ann")
    page.keyboard.press("Enter")
    expect(page.locator("#name-problem")).to_contain_text("called Ann already")
    editing.screenshot("editing-merge")
    page.click("#merge")
    expect(page.locator(".lane-name")).to_have_text(["Ann"])
    saved(editing)
    assert {turn["speaker"] for turn in corrected(editing, server)} == {"SPEAKER_00"}
    page.click("#undo")
    expect(page.locator(".lane-name")).to_have_count(2)
    saved(editing)


def test_corrected_turns_are_downloaded_in_every_format(editing, server):
    page = editing.page
    page.get_by_label("Name of SPEAKER_00").fill("Ann Lee")
    page.keyboard.press("Enter")
    begins = {"csv": "", "srt": "1\n00:00:", "vtt": "WEBVTT", "audacity": ""}
    for form, begin in begins.items():
        with page.expect_download() as download:
            page.select_option("#more", form)
        text = Path(download.value.path()).read_text()
        assert text.startswith(begin)
        assert "Ann Lee" in text
        assert download.value.suggested_filename.startswith("sample.")


def test_who_saved_second_is_told(editing, server):
    page = editing.page
    job_id = page.url.split("#job=")[1]
    server[0].versions.save(job_id, 0, {"turns": [], "names": {}})
    choose_turn(page, 0)
    page.keyboard.press("Delete")
    expect(page.locator("#saved")).to_contain_text("Somebody else saved changes")
    editing.screenshot("editing-conflict")
    editing.expect_problems("409")
    page.evaluate("location.hash = ''")
    editing.page.wait_for_timeout(500)
    editing.problems.clear()


def test_one_speaker_is_played_alone_and_silence_skipped(editing, server):
    page, turns = editing.page, output_of(editing, server)["diarization"]
    page.evaluate(LISTEN)
    page.select_option("#speed", "2")
    page.get_by_label("Play SPEAKER_01 only").click()
    first = min(turn["start"] for turn in turns if turn["speaker"] == "SPEAKER_01")
    until(page, f"window.sound?.currentTime >= {first}")
    expect(page.locator("#now")).to_contain_text("SPEAKER_01")
    assert page.evaluate("window.sound.playbackRate") == 2
    page.keyboard.press("k")
    until(page, "window.sound.paused")
    at = sound(page)["time"]
    page.keyboard.press("l")
    until(page, f"window.sound.currentTime > {at + 4}")
    page.keyboard.press("j")
    until(page, f"window.sound.currentTime < {at + 1}")
    editing.screenshot("editing-only-one")


def test_the_server_gives_the_waveform_of_a_shared_link(open_page, editing, url):
    """Another browser, without the file."""
    other = open_page(url + "#job=" + editing.page.url.split("#job=")[1])
    expect(other.page.locator("#result")).to_be_visible(timeout=SLOW)
    until(other.page, "document.querySelector('canvas').clientHeight > 24 + 72 + 2 * 30")
    other.screenshot("shared-link")
