"""What clients post, checked field by field: names only, never a path of this machine."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, field_validator

from autotune.errors import BadInput
from autotune.hardware.parse import sent_inventory
from autotune.hardware.sizes import parse_size
from autotune.models import presets
from autotune.request import PlanRequest, TuneRequest
from search_spaces.columns import Value
from search_spaces.space import SearchSpace
from trials.contract.config import TrainingConfig
from trials.contract.message import ContractError, nearest

Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=200)]
Choices = Annotated[list[bool | int | Text], Field(min_length=1, max_length=64)]
ANY_DEVICE_BYTES = 1 << 40
PAGES = ("new", "compare")
"""Under /jobs, where each job has its page."""
MOST_MINUTES = 60 * 24 * 365

Model = Annotated[
    Text | dict[str, Any],
    Field(
        description="A preset's name (GET /v1/models), or the content of a Hugging Face config.json. A "
        "factory as package.module:callable only where the server's administrator allows it.",
        examples=["llama-3.1-8b", {"model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16}],
    ),
]
Gpus = Annotated[
    Text | dict[str, Any],
    Field(
        description="auto (what the server finds), H100:8, 2x8xH100-80GB (nodes x GPUs x kind), cpu:2, or an "
        "inventory as inventory files have it.",
        examples=["H100:8", "2x8xH100-80GB", "cpu:2"],
    ),
]
Space = Annotated[
    Text | dict[str, Any] | None,
    Field(
        description="What may vary: the name of a space (GET /v1/spaces), or one as its YAML file has it.",
        examples=["fsdp"],
    ),
]
Ceiling = Annotated[
    Text | None,
    Field(
        description="Device memory one rank may use: 22GiB, 1500MiB or 90%; all where it is not said.",
        examples=["22GiB"],
    ),
]


class Question(BaseModel):
    """What a forecast and a job have in common."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: Model
    model_name: Annotated[Text | None, Field(description="What to call a model given by its content.")] = None
    gpus: Gpus = "auto"
    ceiling: Ceiling = None
    headroom: Annotated[Share, Field(description="Share of the ceiling that must stay free.")] = 0.05
    space: Space = None
    settings: Annotated[
        dict[Text, Choices],
        Field(
            description="Field of a configuration → the values it may have.",
            examples=[{"sequence_length": [4096], "precision": ["bf16"]}],
            max_length=64,
        ),
    ] = {}
    global_batch_size: Annotated[int | None, Field(ge=1, le=2**31)] = None
    global_batch_tolerance: Share = 0.10

    @field_validator("*", mode="before")
    @classmethod
    def _kept_by_databases(cls, given: Any) -> Any:
        for text in _texts(given):
            if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(f"{text[:80]!r} has NUL in it or half a character, which no database keeps")
        return given

    @field_validator("gpus")
    @classmethod
    def _known_gpus(cls, given: Any) -> Any:
        if given != "auto":
            _checked(sent_inventory, given)
        return given

    @field_validator("ceiling")
    @classmethod
    def _a_size(cls, given: str | None) -> str | None:
        if given is not None:
            _checked(parse_size, given, ANY_DEVICE_BYTES)
        return given

    @field_validator("settings")
    @classmethod
    def _choices_of_fields(cls, given: dict[str, list[Value]]) -> dict[str, list[Value]]:
        _checked(SearchSpace.parse, {"name": "settings", "dimensions": given})
        return given

    @field_validator("space")
    @classmethod
    def _known_space(cls, given: Any) -> Any:
        names = SearchSpace.names()
        if isinstance(given, str) and given not in names:
            raise ValueError(f"no space is called {given[:80]!r}{nearest(given[:80], list(names))}")
        return given

    def require_known_model(self, factories: Sequence[str]) -> None:
        """Raise RequestValidationError for a text that is neither a preset nor among the factories."""
        names = presets.names()
        if not isinstance(self.model, str) or self.model.lower() in names or self.model in factories:
            return
        if ":" in self.model:
            why = "this server builds no such factory; its administrator can add it to AUTOTUNE_FACTORIES"
        else:
            near = nearest(self.model[:80].lower(), list(names))
            named = f"no preset is called {self.model[:80]!r}{near}"
            why = f"{named}; or send a config.json's content as an object"
        raise RequestValidationError([{"loc": ("body", "model"), "msg": why}])

    @property
    def _words(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "model_name": self.model_name,
            "gpus": self.gpus,
            "ceiling": self.ceiling,
            "headroom": self.headroom,
            "space": self.space,
            "settings": _settings(self.settings),
            "global_batch_size": self.global_batch_size,
            "global_batch_tolerance": self.global_batch_tolerance,
        }


class PlanBody(Question):
    """A forecast to be made."""

    top: Annotated[int, Field(ge=1, le=100, description="Rows to answer with.")] = 10

    def request(self, ray_address: str | None, storage: str | None) -> PlanRequest:
        return PlanRequest(**self._words, top=self.top, ray_address=ray_address, storage=storage)


class JobBody(Question):
    """A job to be done."""

    name: Annotated[
        str | None,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$",
            description="What to call the job; else the model's name and a number.",
        ),
    ] = None
    baseline: Annotated[
        dict[Text, bool | int | Text] | None,
        Field(
            description="Your present configuration, which speed-up is quoted against; fields left out are "
            "as in the baseline that autotune would choose.",
            examples=[{"sharding": "fsdp", "micro_batch_size": 4}],
        ),
    ] = None
    min_speed: Share = 0.0
    trials: Annotated[int, Field(ge=1, le=10_000, description="At most so many trials.")] = 24
    minutes: Annotated[float | None, Field(gt=0, le=MOST_MINUTES, allow_inf_nan=False)] = None
    gpu_hours: Annotated[float | None, Field(gt=0, le=1e6, allow_inf_nan=False)] = None
    sampler: Text = "cost_model"
    stop_below: Share = 0.01
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    probe_seconds: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 10.0
    repeats: Annotated[int, Field(ge=1, le=100)] = 1
    fresh: bool = False
    executor: Annotated[
        Literal["ray", "local"] | None,
        Field(description="Where probes run: on Ray workers, or beside the worker; as the server is set up."),
    ] = None

    @field_validator("name")
    @classmethod
    def _not_a_page(cls, given: str | None) -> str | None:
        if given in PAGES:
            raise ValueError(f"{given!r} is a page of its own beside those of jobs; choose another name")
        return given

    @field_validator("baseline")
    @classmethod
    def _fields_of_a_config(cls, given: Mapping[str, Value] | None) -> Mapping[str, Value] | None:
        if given is not None:
            TrainingConfig.parse(dict(given))
        return given

    def request(self, ray_address: str | None, executor: str) -> TuneRequest:
        return TuneRequest(
            **self._words,
            name=self.name,
            baseline=None if self.baseline is None else TrainingConfig.parse(dict(self.baseline)),
            min_speed=self.min_speed,
            trials=self.trials,
            minutes=self.minutes,
            gpu_hours=self.gpu_hours,
            sampler=self.sampler,
            stop_below=self.stop_below,
            seed=self.seed,
            probe_seconds=self.probe_seconds,
            repeats=self.repeats,
            fresh=self.fresh,
            executor=self.executor or executor,
            ray_address=ray_address,
        )


def _texts(given: Any) -> Iterator[str]:
    """Every string in what JSON gave, keys too; it may be nested deeper than a recursion would get."""
    waiting = [given]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping):
            waiting += [*one, *one.values()]
        elif isinstance(one, list):
            waiting += one


def _checked(parse: Callable[..., object], *given: object) -> None:
    """What would be wrong later is said now, with the field's name."""
    try:
        parse(*given)
    except (BadInput, ContractError) as error:
        raise ValueError(str(error)) from error


def _settings(given: Mapping[str, Sequence[Value]]) -> dict[str, tuple[Value, ...]]:
    return {name: tuple(values) for name, values in given.items()}
