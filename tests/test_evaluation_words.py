"""Words and who said them: cpWER against all pairings, and the forms that people have words in."""

import json
import random
from itertools import permutations

import pytest
from typer.testing import CliRunner

from raydiar.cli import app
from raydiar.diarization import Turn
from raydiar.errors import EvaluationError
from raydiar.evaluation.attribution import attribute, score_words, word_errors
from raydiar.evaluation.words import Word, has_words, normalized, read_words


def distance(one, other):
    """Edit distance, by the book."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def spoken(words):
    said = {}
    for word in words:
        said.setdefault(word.speaker, []).append(word.text)
    return list(said.values())


@pytest.mark.parametrize("seed", range(8))
def test_cpwer_is_the_least_of_all_pairings(seed):
    rng = random.Random(seed)
    sides = []
    for speakers in (rng.randint(1, 4), rng.randint(1, 4)):
        sides.append(
            [
                Word(at, at + 1, f"s{rng.randrange(speakers)}", rng.choice("abcd"))
                for at in range(rng.randint(1, 25))
            ]
        )
    errors = word_errors(*sides)
    ours, theirs = map(spoken, sides)
    size = max(len(ours), len(theirs))
    ours += [[]] * (size - len(ours))
    theirs += [[]] * (size - len(theirs))
    least = min(
        sum(distance(one, other) for one, other in zip(ours, order, strict=True))
        for order in permutations(theirs)
    )
    assert errors.errors == least
    assert errors.words == len(sides[0])
    # words there and not there add up
    assert errors.words - errors.deleted + errors.inserted == len(sides[1])


def test_no_words_at_all():
    assert word_errors([], []).word_error_rate == 0
    assert word_errors([], [Word(0, 1, "x", "a")]).word_error_rate == 1
    assert word_errors([Word(0, 1, "x", "a")], []).deleted == 1


def test_words_are_given_to_whoever_speaks():
    words = [
        Word(at, at + 0.5, "?", text) for at, text in ((0, "a"), (1, "b"), (3.2, "c"), (9, "d"))
    ]
    turns = [Turn(0, 1.2, "x"), Turn(1.1, 3, "y")]
    assert [(w.text, w.speaker) for w in attribute(words, turns)] == [
        ("a", "x"),
        ("b", "y"),  # most of it
        ("c", "y"),  # nobody speaks, but just before
    ]  # and d is far from everything
    assert attribute(words, []) == []


def test_two_who_speak_at_once_get_a_word_each():
    turns = [Turn(0, 4, "x"), Turn(0, 4, "y")]
    words = [Word(1, 2, "Ann", "a"), Word(1, 2, "Bob", "b")]
    assert sorted(word.speaker for word in attribute(words, turns)) == ["x", "y"]


def test_case_punctuation_and_marks_do_not_count():
    assert normalized("Well… <noise> I DON’T know, Ann-Marie's «bus» 'tis –") == [
        *("well", "i", "don't", "know", "annmarie's", "bus", "tis")
    ]
    assert normalized("ＡＢＣ é Straße") == ["abc", "é", "strasse"]


WORDS = [("m", "1", "good"), ("m", "1", "morning"), ("m", "2", "hello")]
FORMS = {
    "a.stm": ";; who\nm 1 1 0 2 <o,f0,female> Good morning\n\nm 1 2 2 3 Hello!\n",
    "a.ctm": "m 1 0 1 good 0.9\nm 1 1 1 morning\nm 2 2 1 hello\n",
    "m.json": json.dumps(
        {
            "segments": [
                {"start": 0, "end": 2, "speaker": "1", "text": "good morning"},
                {
                    "speaker": "2",
                    "start": 2,
                    "end": 3,
                    "text": "hello",
                    "words": [{"word": " Hello", "start": 2, "end": 3}],
                },
            ]
        }
    ),
    "b.json": json.dumps(
        [
            {
                "session_id": "m",
                "speaker": 1,
                "start_time": 0,
                "end_time": 2,
                "words": "good morning",
            },
            {"session_id": "m", "speaker": 2, "start_time": "2", "end_time": "3", "words": "hello"},
        ]
    ),
    "c.jsonl": '{"uri": "m", "speaker": "1", "start": 0, "end": 2, "text": "good morning"}\n'
    '{"uri": "m", "speaker": "2", "start": 2, "end": 3, "text": "hello"}\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_words_are_read_from(tmp_path, name):
    (tmp_path / name).write_text("﻿" * (name == "a.stm") + FORMS[name], encoding="utf-8")
    found = read_words(tmp_path)  # a folder that holds the file
    assert [("m", w.speaker, w.text) for w in found["m"]] == WORDS
    assert [w.end for w in found["m"]] == pytest.approx([8 / 11, 2, 3], abs=0.3)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.stm", "m 1 Ann zero 2 hello", "line 1 is not STM"),
        ("a.stm", "m 1 Ann 2 1 hello", "line 1 is not STM"),
        ("a.ctm", "m 1 0 inf hello", "line 1 is not CTM"),
        ("a.ctm", "\nm 1 0", "line 2 is not CTM"),
        ("a.json", "{", "is not JSON"),
        ("a.json", '"words"', "no list of utterances"),
        ("a.json", "{}", "no list of utterances"),
        ("a.json", "[1]", "entry 0"),
        ("a.json", '[{"start": 0, "end": 1, "text": "a"}]', "entry 0 .* speaker"),
        ("a.json", '[{"start": 0, "end": NaN, "text": "a", "speaker": "x"}]', "entry 0"),
        ("a.json", '[{"start": 0, "end": 1, "speaker": "x"}]', "entry 0"),
        ("a.jsonl", '{"start": 0}\nx', "line 2 is not JSON"),
        ("a.stm", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_what_is_damaged_is_named(tmp_path, name, content, told):
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(EvaluationError, match=told):
        read_words(file)


def test_a_dataset_with_its_own_json_is_no_words(tmp_path):
    (tmp_path / "_raydiar").mkdir()
    (tmp_path / "_raydiar/run.json").write_text("{}")
    assert has_words(tmp_path)
    (tmp_path / "ok-1.parquet").write_bytes(b"")
    assert not has_words(tmp_path)


def test_one_recording_in_two_files_is_refused(tmp_path):
    (tmp_path / "a.ctm").write_text("m 1 0 1 a\n")
    (tmp_path / "b.ctm").write_text("m 1 0 1 a\n")
    with pytest.raises(EvaluationError, match="m has words in"):
        read_words(tmp_path)


def test_strangers_are_not_compared():
    with pytest.raises(EvaluationError, match="no recording has a name"):
        score_words({"a": []}, {"b": []})


def test_words_are_scored_on_the_command_line(tmp_path):
    reference = tmp_path / "reference.stm"
    reference.write_text(
        "m1 1 Ann 0 4 Good morning, everybody\nm1 1 Bob 4 6 hello Ann\nm2 1 C 0 1 x\n"
    )
    words = tmp_path / "words.json"
    words.write_text(
        json.dumps(
            [
                {"uri": "a/m1.wav", "speaker": 1, "start": 0, "end": 3, "text": "good morning"},
                {
                    "uri": "a/m1.wav",
                    "speaker": 2,
                    "start": 3,
                    "end": 6,
                    "text": "everybody hello an",
                },
            ]
        )
    )
    turns = tmp_path / "turns.rttm"
    turns.write_text(
        "SPEAKER m1 1 0 2.2 <NA> <NA> x <NA> <NA>\nSPEAKER m1 1 2.2 4 <NA> <NA> y <NA> <NA>\n"
        "SPEAKER m2 1 0 1 <NA> <NA> x <NA> <NA>\n"
    )
    runner = CliRunner()
    result = runner.invoke(app, ["evaluate", str(reference), str(words), "--compare", str(turns)])
    assert result.exit_code == 0, result.output
    [total] = [line for line in result.output.splitlines() if line.startswith("TOTAL")]
    # "everybody" is Bob's now, "Ann" is misspelt, and m2 has nothing
    assert total.split()[1:6] == ["6", "66.7", "16.7", "33.3", "16.7"]
    assert "all their words count as deleted: m2" in result.stderr
    assert "turns.rttm: cpWER 33.3%" in result.output
    result = runner.invoke(app, ["evaluate", str(reference), str(turns), "--collar", "1"])
    assert result.exit_code == 1
    assert "--collar is for turns" in f"{result.output}{result.stderr}{result.exception}"
