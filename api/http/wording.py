"""What the engine says, in the words of who calls over HTTP.

Its sentences name the command or the option that helps, because most of its callers are at a shell; over HTTP the same help is an
address, a field or a kind of job. A test reads all that the engine can say and holds that none gets through with a command.
"""

import re

from sightline.errors import SightlineError

_JOB = "a job of kind {} (POST /v1/jobs)"
_FUSION = "whoever runs the service names one that fits by the setting SIGHTLINE_FUSION"
_IN_OTHER_WORDS: tuple[tuple[str, str], ...] = (
    # the longer ones first: what they hold is not looked for again
    (
        r"`sightline index FOLDER --collection .*` makes it, `sightline collections` lists those there are",
        "GET /v1/collections lists those there are, POST /v1/collections makes one",
    ),
    (r"`sightline index FOLDER` makes one, `--store` names another place", "whoever runs the service has to start it on one that is there"),
    (r"`sightline runs`", "GET /v1/runs"),
    (r"`sightline keys list`", "GET /v1/keys"),
    (r"\(`sightline collections delete [^`]*`\)", "(DELETE /v1/collections/NAME)"),
    (r"index them into a new one with --collection NAME", "index them into another one"),
    (
        r"leave --encoder away to use the collection's own, or index into a new collection with --collection NAME --encoder .*",
        "whoever runs the service starts it with the collection's own encoder, or its sources are indexed into another collection",
    ),
    (
        r"name that one with --fusion, or let `sightline patches [^`]*` put others in their place, with the --fusion of the [^`]* has one",
        f"let {_JOB.format('patches')} put others in their place",
    ),
    (r"`sightline patches [^`]*` adds them, with the --fusion of the search where it has one", f"{_JOB.format('patches')} adds them"),
    (r"`sightline patches [^`]*`", _JOB.format("patches")),
    (r"`sightline hubness[^`]*`(?: or --encoder-bank)?", _JOB.format("hubness")),
    (r"make one with --queries FILE or --captions", 'make one with a source of queries, or with "queries": "captions"'),
    (r"make a bank of queries with --queries FILE", "make a bank with a source of queries"),
    (r"`sightline verify --repair`", f'{_JOB.format("verify")} with "repair": true'),
    (r"`sightline verify`", _JOB.format("verify")),
    (r"`sightline compact --force`", _JOB.format("rebuild")),
    (r"train one \(`sightline train fusion`\) and name it with --fusion FOLDER", _FUSION),
    (r"name a fusion encoder of `sightline train fusion`", _FUSION),
    (r"train one for it with `sightline train fusion`", _FUSION),
    (r"`sightline train fusion` trains one", _FUSION),
    (
        r"name its folder with --fusion for a second look",
        "whoever runs the service names its folder by the setting SIGHTLINE_FUSION for a second look",
    ),
    (r"that `sightline train` joins", "that training joins"),
    (r"a picture \(--image FILE\) or an item \(--like KEY\)", "a picture (image) or an item (like)"),
)
_PATTERNS = [(re.compile(pattern, re.DOTALL), other) for pattern, other in _IN_OTHER_WORDS]


def over_http(sentence: str) -> str:
    """The sentence, with what to do over HTTP in the place of commands and options."""
    if "`sightline" not in sentence and "--" not in sentence:
        return sentence
    for pattern, other in _PATTERNS:
        sentence = pattern.sub(lambda _: other, sentence)  # noqa: B023  (called at once)
    return sentence


def sentence_of(error: SightlineError) -> str:
    """What is wrong and what to do, for who calls over HTTP."""
    return over_http(str(error))
