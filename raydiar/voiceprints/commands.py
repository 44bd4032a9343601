"""`raydiar voiceprint …`: thin, and quick to import."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from raydiar.errors import ConfigError, VoiceprintNotFound
from raydiar.naming import public_uri, without_secrets

app = typer.Typer(help="Find every voice of a corpus again.", no_args_is_help=True)

Index = Annotated[str, typer.Argument(metavar="INDEX", help="Folder or URI of the index.")]
Datasets = Annotated[
    list[str], typer.Argument(metavar="DATASET…", help="Outputs of `raydiar corpus diarize`.")
]
PipelineOption = Annotated[
    str | None, typer.Option(help="Hub repository, directory or config; default embedded.")
]
TokenOption = Annotated[str | None, typer.Option(help="Hugging Face token for gated weights.")]
CalibrationOption = Annotated[
    str | None,
    typer.Option(
        help="JSON file; by default the one shipped for the embedding. Searches also take the "
        "evidence.json that `link` writes."
    ),
]
Prior = Annotated[
    float, typer.Option(help="How likely two voices are one person before they are heard.")
]
SizePrior = Annotated[
    float | None,
    typer.Option(help="The same; by default by how many there are to choose from."),
]
RateOption = Annotated[float, typer.Option(help="How often a stranger may be taken for somebody.")]


@app.command()
def build(
    index: Index,
    datasets: Datasets,
    column: Annotated[
        list[str] | None, typer.Option(help="Carried column to keep for filters; repeatable.")
    ] = None,
    min_seconds: Annotated[
        float | None, typer.Option(help="Mark voiceprints of less speech as too short.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="auto, exact, pq-fastscan, ivf-rabitq or ivf-sq8.")
    ] = "auto",
    exact_limit: Annotated[
        int | None, typer.Option(help="auto compares with all voiceprints up to this number.")
    ] = None,
    lists: Annotated[int | None, typer.Option(help="Inverted lists of an IVF segment.")] = None,
) -> None:
    """Make an index of the voiceprints of diarization datasets."""
    from raydiar.voiceprints import builder
    from raydiar.voiceprints.segment_writer import Layout

    given = {"exact_limit": exact_limit, "num_lists": lists}
    layout = Layout(kind=kind, **{k: v for k, v in given.items() if v is not None})
    seconds = builder.MIN_SECONDS if min_seconds is None else min_seconds
    print(
        builder.build(
            index, datasets, columns=column or (), min_seconds=seconds, layout=layout, report=_log
        )
    )


@app.command()
def add(index: Index, datasets: Datasets) -> None:
    """Add the recordings of diarization datasets that INDEX does not have yet."""
    from raydiar.voiceprints import builder

    print(builder.add(index, datasets, report=_log))


@app.command()
def merge(
    index: Index,
    others: Annotated[list[str], typer.Argument(metavar="OTHER…", help="Other indexes.")],
) -> None:
    """Add the voiceprints of other indexes to INDEX."""
    from raydiar.voiceprints import builder

    print(builder.merge(index, others, report=_log))


@app.command()
def enroll(
    index: Index,
    name: Annotated[str, typer.Argument(help="Of the person.")],
    clips: Annotated[list[str], typer.Argument(metavar="CLIP…", help="Nobody else speaks in it.")],
    pipeline: PipelineOption = None,
    token: TokenOption = None,
) -> None:
    """Learn a person from clips."""
    from raydiar.voiceprints import enrolment

    for clip, seconds in enrolment.enroll(index, name, clips, _pipeline(pipeline, token)):
        print(f"{name}: {seconds:.1f} s of speech in {public_uri(clip)}")


@app.command()
def search(
    index: Index,
    clip: Annotated[str | None, typer.Argument(help="Audio: everyone in it is sought.")] = None,
    recording: Annotated[str | None, typer.Option(help="Recording of the corpus …")] = None,
    speaker: Annotated[str | None, typer.Option(help="… and the speaker of it to seek.")] = None,
    name: Annotated[str | None, typer.Option(help="Enrolled person to seek.")] = None,
    k: Annotated[int, typer.Option("-k", help="Hits of each voice at most.")] = 10,
    where: Annotated[
        list[str] | None, typer.Option(help="COLUMN=VALUE that hits must have; repeatable.")
    ] = None,
    include_short: Annotated[
        bool, typer.Option(help="Also voiceprints of too little speech.")
    ] = False,
    prior: SizePrior = None,
    calibration: CalibrationOption = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON document a hit.")] = False,
    pipeline: PipelineOption = None,
    token: TokenOption = None,
) -> None:
    """Print who sounds like the voices of a CLIP, of a speaker, or of an enrolled person."""
    from raydiar.voiceprints import search as searching
    from raydiar.voiceprints.index import VoiceprintIndex
    from raydiar.voiceprints.tables import hit_table, hits_as_json

    given = [clip is not None, recording is not None and speaker is not None, name is not None]
    if sum(given) != 1 or (recording is None) != (speaker is None):
        raise ConfigError("say whom to seek: a CLIP, --recording and --speaker, or --name")
    opened = VoiceprintIndex.open(index)
    generation = opened.generation
    options = {
        "calibration": _meaning(calibration, generation.embedding, generation.embedding_mode),
        "prior": prior,
        "where": _conditions(where or []),
        "include_short": include_short,
    }
    if clip is not None:
        found = searching.search_audio(opened, _pipeline(pipeline, token), clip, k, **options)
        told = public_uri(clip)
        queries = [(f"{s.speaker} of {told}, {s.speech_seconds:.1f} s", h) for s, h in found]
    elif name is not None:
        queries = [(name, searching.search_name(opened, name, k, **options))]
    else:
        hits = searching.search_speaker(opened, recording, speaker, k, **options)
        queries = [(f"{speaker} of {recording}", hits)]
    for label, hits in queries:
        turns = searching.turns_of(hits)
        print(hits_as_json(label, hits, turns) if json_ else hit_table(label, hits, turns))


@app.command()
def verify(
    first: Annotated[str, typer.Argument(help="Audio in which one person speaks.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    false_accept_rate: RateOption = 0.01,
    prior: Prior = 0.5,
    cohort: Annotated[
        str | None,
        typer.Option(help="Index whose voices scores are measured against (AS-norm)."),
    ] = None,
    plda: Annotated[
        str | None, typer.Option(help="Folder of a PLDA that compares in place of the cosine.")
    ] = None,
    calibration: CalibrationOption = None,
    pipeline: PipelineOption = None,
    token: TokenOption = None,
) -> None:
    """Say whether the main speakers of two clips are one person; exit status 1 if not."""
    from raydiar.voiceprints.search import main_speaker

    if sum(x is not None for x in (cohort, plda, calibration)) > 1:
        raise ConfigError("compare by --calibration, by --cohort or by --plda")
    diarizer = _pipeline(pipeline, token)
    judge = _judge(cohort, plda, calibration, diarizer.describe(), false_accept_rate, prior)
    voices = [main_speaker(diarizer(clip)).embedding[None] for clip in (first, second)]
    same, told = judge(*voices)
    print(f"{'same person' if same else 'different people'}: {told}")
    if not same:
        raise typer.Exit(1)


def _judge(cohort, plda, calibration, made_with, false_accept_rate: float, prior: float):
    """What tells of two voiceprints whether they are one person's, and why."""
    import numpy as np

    from raydiar.clustering.plda import PLDA
    from raydiar.voiceprints.index import VoiceprintIndex
    from raydiar.voiceprints.verification import Cohort, cosine, plda_scores

    embedding = made_with["embedding"], made_with["embedding_mode"]
    if cohort is not None:
        index = VoiceprintIndex.open(cohort)
        index.check_embedding(*embedding)
        strangers = Cohort.of(index)
        least = strangers.threshold(false_accept_rate)

        def normalised(*voices):
            score = float(strangers.scores(*voices)[0])
            return score >= least, (
                f"normalised score {score:.2f}, threshold {least:.2f}, which "
                f"{false_accept_rate:.2%} of the pairs in {cohort} reach"
            )

        return normalised
    if plda is not None:
        model = PLDA.load(plda)

        def by_plda(*voices):
            if voices[0].shape[1] != model.dimension:
                raise ConfigError(
                    f"the PLDA in {plda} is of voices of {model.dimension} dimensions, these "
                    f"have {voices[0].shape[1]}"
                )
            ratio = float(plda_scores(model, *voices)[0])
            probability = 1 / (1 + np.exp(-np.clip(ratio + np.log(prior / (1 - prior)), -500, 500)))
            return probability > 0.5, (
                f"log-likelihood ratio {ratio:.2f}, probability {probability:.1%}"
            )

        return by_plda
    meaning = _calibration(calibration, *embedding)

    def by_cosine(*voices):
        score = float(cosine(*voices)[0])
        if meaning is None:
            raise ConfigError(
                f"the cosine is {score:.3f}; what it means for this embedding is not known: give "
                "--calibration"
            )
        least = meaning.threshold(false_accept_rate)
        return score >= least, (
            f"score {score:.3f}, probability {float(meaning.probability(score, prior)):.1%}, "
            f"threshold {least:.3f} for {false_accept_rate:.2%} false accepts"
        )

    return by_cosine


@app.command()
def identify(
    index: Index,
    clip: Annotated[str, typer.Argument(help="Audio whose speakers are to be named.")],
    false_accept_rate: RateOption = 0.01,
    prior: SizePrior = None,
    calibration: CalibrationOption = None,
    pipeline: PipelineOption = None,
    token: TokenOption = None,
) -> None:
    """Name the speakers of a clip among the enrolled people of INDEX."""
    from raydiar.voiceprints import enrolment
    from raydiar.voiceprints.index import VoiceprintIndex
    from raydiar.voiceprints.search import check_pipeline
    from raydiar.voiceprints.tables import identity_table

    opened = VoiceprintIndex.open(index)
    diarizer = _pipeline(pipeline, token)
    check_pipeline(opened, diarizer)
    generation = opened.generation
    meaning = _calibration(calibration, generation.embedding, generation.embedding_mode)
    if meaning is None:
        raise ConfigError("no calibration is shipped for this embedding: give --calibration")
    identities = enrolment.identify(
        opened, diarizer(clip), meaning, false_accept_rate=false_accept_rate, prior=prior
    )
    print(identity_table(identities))


@app.command()
def link(
    index: Index,
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder of the identities.")],
    probability: Annotated[
        float, typer.Option(help="Of being one person, from which on voices are linked.")
    ] = 0.9,
    prior: Annotated[
        float | None,
        typer.Option(help="How likely two voices are one person; default by the corpus' size."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Score from which on two voices of long speech are linked, instead."),
    ] = None,
    within: Annotated[
        str | None,
        typer.Option(
            help="Carried column (channel, feed, show): link in each of its values first."
        ),
    ] = None,
    one_recording: Annotated[
        bool, typer.Option(help="Two speakers of one recording are hardly ever one person.")
    ] = True,
    exact: Annotated[
        bool | None, typer.Option(help="Compare every pair; default up to 200,000 voices.")
    ] = None,
    calibration: CalibrationOption = None,
) -> None:
    """Give every voice of INDEX an identity; those that OUTPUT holds are kept."""
    from raydiar.voiceprints.index import VoiceprintIndex
    from raydiar.voiceprints.linking import LinkingParameters, link_into
    from raydiar.voiceprints.tables import people_table

    opened = VoiceprintIndex.open(index)
    generation = opened.generation
    meaning = _calibration(calibration, generation.embedding, generation.embedding_mode)
    parameters = LinkingParameters(
        probability=probability,
        prior=prior,
        threshold=threshold,
        within=within,
        one_recording=one_recording,
        exact=exact,
    )
    linking = link_into(output, opened, meaning, parameters, _log)
    print(people_table(linking.identities))
    print(f"The identities are in {output}")


@app.command()
def info(index: Index) -> None:
    """Print what INDEX holds."""
    from raydiar.voiceprints.index import VoiceprintIndex

    for key, value in VoiceprintIndex.open(index).info().items():
        if isinstance(value, list | dict):
            value = ", ".join(value) or "-"
        print(f"{key:16} {value}")


@app.command()
def delete(
    index: Index,
    recordings: Annotated[
        list[str] | None, typer.Argument(metavar="RECORDING…", help="Their ids.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Enrolled person to forget.")] = None,
) -> None:
    """Delete recordings, or an enrolled person; `vacuum --compact` wipes their numbers.

    Exit status 1 if something that was named is not there.
    """
    from raydiar.voiceprints import builder

    if bool(recordings) == (name is not None):
        raise ConfigError("say what to delete: RECORDING…, or --name")
    if name is not None:
        try:
            print(builder.forget(index, name))
        except VoiceprintNotFound as error:
            _log(f"raydiar: {error}")
            raise typer.Exit(1) from None
        return
    missing = builder.absent(index, recordings)
    if len(missing) < len(set(recordings)):
        print(builder.delete(index, recordings, report=_log))
    for recording in missing:
        _log(f"raydiar: {index} has no voiceprint of the recording {recording!r}: nothing deleted")
    if missing:
        raise typer.Exit(1)


@app.command()
def forget(
    index: Index,
    recordings: Annotated[list[str], typer.Argument(metavar="RECORDING…", help="Their ids.")],
    people: Annotated[
        list[str] | None,
        typer.Option(help="Folder of identities linked from INDEX; repeatable."),
    ] = None,
) -> None:
    """Wipe recordings from INDEX, identities and caches, and search what is left for them.

    Unlike `delete`, nothing of them stays in older files. Exit status 1 if one is not there.
    """
    from raydiar.voiceprints.forgetting import forget_recordings

    try:
        print(forget_recordings(index, recordings, people or (), _log))
    except VoiceprintNotFound as error:
        _log(f"raydiar: {error}")
        raise typer.Exit(1) from None


@app.command()
def vacuum(
    index: Index,
    grace: Annotated[float, typer.Option(help="Keep files younger than this many hours.")] = 24.0,
    compact: Annotated[
        bool, typer.Option(help="First write segments anew that have deleted rows.")
    ] = False,
) -> None:
    """Remove the files of older generations and of writers that died."""
    from raydiar.voiceprints import builder

    builder.vacuum(index, grace=3600 * grace, compact=compact, report=_log)


def _log(line: str) -> None:
    print(without_secrets(line), file=sys.stderr)


def _pipeline(checkpoint: str | None, token: str | None):
    from raydiar.pipelines import Pipeline

    return Pipeline.from_pretrained(checkpoint, token=token).to("auto")


def _calibration(path: str | None, embedding: str, embedding_mode: str):
    from raydiar.voiceprints.verification import Calibration, default_calibration

    if path is None:
        return default_calibration(embedding, embedding_mode)
    calibration = Calibration.from_json(_read(path))
    if (calibration.embedding, calibration.embedding_mode) != (embedding, embedding_mode):
        raise ConfigError(f"{path} was fitted for another embedding ({calibration.embedding})")
    return calibration


def _meaning(path: str | None, embedding: str, embedding_mode: str):
    """A calibration or evidence that is given, or how cosines spread in a corpus by default."""
    from raydiar.voiceprints.evidence import Evidence

    if path is None:
        shipped = _calibration(None, embedding, embedding_mode)
        return None if shipped is None else Evidence()
    try:
        evidence = Evidence.from_json(_read(path))
    except ConfigError:
        return _calibration(path, embedding, embedding_mode)
    made_with = (evidence.embedding, evidence.embedding_mode)
    if made_with not in (("", ""), (embedding, embedding_mode)):
        raise ConfigError(f"{path} was measured with another embedding ({evidence.embedding})")
    return evidence


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None


def _conditions(terms: list[str]) -> dict[str, list]:
    """`COLUMN=VALUE` terms; several of one column are alternatives. Values are read as JSON."""
    conditions: dict[str, list] = {}
    for term in terms:
        name, separator, text = term.partition("=")
        if not separator:
            raise ConfigError(f"{term!r} is not COLUMN=VALUE")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        conditions.setdefault(name, []).append(value)
    return conditions
