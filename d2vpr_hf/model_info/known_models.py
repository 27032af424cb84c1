"""The table of known encoders: cost, rights, quoted recalls, and the way to get each. Importing this module loads no torch.

Values that are not known are `None`. Parameters and multiply-adds of transformers models were counted with networks of the
published configurations (`tests/model_info/test_known_models.py` counts them again); all recalls are quoted, from the source
that their row names.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from d2vpr_hf.model_info.embedded_model import EMBEDDED_NAME
from d2vpr_hf.model_info.model_facts import ModelFacts
from d2vpr_hf.model_info.model_options import ModelOptions
from d2vpr_hf.model_info.preprocessing import Preprocessing

Kind = Literal["own", "transformers", "onnx", "torch-hub"]

GSV_CITIES = "GSV-Cities, street photos under CC BY-NC-ND 4.0"
SF_XL = "SF-XL, Street View photos of San Francisco, given out for research"
_DINOV2_DATA = "142 million photos from the web (LVD-142M, not published); not trained for places"
_DINOV3_DATA = "1,689 million photos from the web (LVD-1689M, not published); not trained for places"
_VPR_METHODS = "arXiv 2502.17237"


@dataclass(frozen=True)
class TorchHubEntry:
    """A model that the code of a GitHub repository makes, as `torch.hub.load` would call it.

    Attributes:
        repository: Owner and name on GitHub.
        commit: Commit at which the repository's `hubconf.py` was read.
        entry: Name of the function in `hubconf.py`.
        arguments: Its arguments.
        output: Name or position of the descriptor, if the network returns several values; `None` if it returns one.
        also: Repositories, as `owner/name@commit`, that the code itself loads by torch.hub.
    """

    repository: str
    commit: str
    entry: str
    arguments: Mapping[str, str | int | bool] = field(default_factory=dict)
    output: str | None = None
    also: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Repository, commit and entry, as `d2vpr import-hub` takes them."""
        return f"{self.repository}@{self.commit}:{self.entry}"

    @property
    def command(self) -> str:
        """The command that shows the code, and with `--i-trust-this-code` imports the model."""
        arguments = "".join(f" --set {name}={value}" for name, value in self.arguments.items())
        others = "".join(f" --also {repository}" for repository in self.also)
        return f"d2vpr import-hub {self.source}{arguments}{others} --out MODEL"


@dataclass(frozen=True)
class OnnxFile:
    """A graph that the authors of a model published.

    Attributes:
        repository: Its repository on the Hub.
        name: Name of the file.
        sha256: SHA-256 of the file.
    """

    repository: str
    name: str
    sha256: str


@dataclass(frozen=True)
class KnownModel:
    """A row of the table.

    Attributes:
        name: Short name.
        title: Name for people.
        kind: The way in which this package opens it: its own model, one of transformers, a published ONNX file, or the code of
            a GitHub repository.
        get: Command that gets it; MODEL is the folder that the command writes.
        license: Licence of the weights, as an SPDX identifier or in words; `None` if none is stated.
        training_data: Photos that the weights were trained on, and rights that these may restrict.
        is_for_places: Whether the model was trained to recognise places.
        hub_id: Repository on the Hub, for a model that is opened by this name.
        num_parameters: Number of weights, rounded.
        gmac: Billions of multiply-adds for one photo of `input_size`.
        gmac_source: `"counted"` or the source of the number.
        descriptor_dim: Width of the descriptors, with the options of this row.
        input_size: Usual height and width in pixels.
        multiple_of: Heights and widths must be multiples of this number; `None` if only `input_size` fits.
        resample: Filter of resizing, as Pillow names it.
        depends_on_batch: Whether a photo's descriptor depends on the other photos of its batch.
        options: The way to compute descriptors by a model that leaves it open.
        pitts30k: Recall@1 on the test part of Pitts30k, in percent.
        msls_val: Recall@1 on MSLS-val (740 queries), in percent.
        recall_source: Source of the recalls.
        arxiv: Identifier of the paper on arXiv.
        onnx: The published graph.
        torch_hub: The entry of torch.hub.
        note: A remark for people who choose a model.
    """

    name: str
    title: str
    kind: Kind
    get: str
    license: str | None
    training_data: str | None
    is_for_places: bool
    hub_id: str | None = None
    num_parameters: int | None = None
    gmac: float | None = None
    gmac_source: str | None = None
    descriptor_dim: int | None = None
    input_size: tuple[int, int] | None = None
    multiple_of: int | None = None
    resample: Literal["bilinear", "bicubic"] = "bilinear"
    depends_on_batch: bool = False
    options: ModelOptions = field(default_factory=ModelOptions)
    pitts30k: float | None = None
    msls_val: float | None = None
    recall_source: str | None = None
    arxiv: str | None = None
    onnx: OnnxFile | None = None
    torch_hub: TorchHubEntry | None = None
    note: str | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """All ways in which this package opens the model."""
        return (self.kind, "torch-hub") if self.torch_hub is not None and self.kind != "torch-hub" else (self.kind,)

    @property
    def facts(self) -> ModelFacts:
        """Title, licence and origin of the weights."""
        return ModelFacts(self.title, self.license, self.training_data, self.arxiv, self.num_parameters)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """The steps from an image to pixel values of a published graph or an entry of torch.hub: the ImageNet mean and std.

        It is `None` for models that come with their own steps.
        """
        if self.onnx is None and self.torch_hub is None:
            return None
        return Preprocessing(size=self.input_size, multiple_of=self.multiple_of or 1, resample=self.resample)

    def to_dict(self) -> dict[str, Any]:
        """Return all values as JSON values."""
        values = asdict(self) | {"kinds": list(self.kinds), "options": self.options.to_dict()}
        return values | ({} if self.input_size is None else {"input_size": list(self.input_size)})


def _dinov2(size: str, letter: str, num_parameters: int, width: int, gmac: float, registers: bool) -> KnownModel:
    """Return the row of a DINOv2."""
    hub_id = f"facebook/dinov2-with-registers-{size}" if registers else f"facebook/dinov2-{size}"
    return KnownModel(
        name=f"dinov2-{'reg-' if registers else ''}{size}",
        title=f"DINOv2 ViT-{letter}/14{' with registers' if registers else ''}",
        kind="transformers",
        get=f"--model {hub_id} --pool gem --image-size 322",
        hub_id=hub_id,
        license="Apache-2.0",
        training_data=_DINOV2_DATA,
        is_for_places=False,
        num_parameters=num_parameters,
        gmac=gmac,
        gmac_source="counted",
        descriptor_dim=width,
        input_size=(322, 322),
        multiple_of=14,
        resample="bicubic",
        options=ModelOptions(pool="gem", image_size=(322, 322)),
        arxiv="2309.16588" if registers else "2304.07193",
    )


def _dinov3(size: str, title: str, num_parameters: int, width: int, gmac: float) -> KnownModel:
    """Return the row of a DINOv3."""
    hub_id = f"facebook/dinov3-{size}-pretrain-lvd1689m"
    return KnownModel(
        name=f"dinov3-{size}",
        title=f"DINOv3 {title}",
        kind="transformers",
        get=f"--model {hub_id}",
        hub_id=hub_id,
        license="DINOv3 License",
        training_data=_DINOV3_DATA,
        is_for_places=False,
        num_parameters=num_parameters,
        gmac=gmac,
        gmac_source="counted",
        descriptor_dim=width,
        input_size=(224, 224),
        multiple_of=16 if size.startswith("vit") else 32,
        arxiv="2508.10104",
        note="Gated: accept the licence on the model's page, then `hf auth login`.",
    )


def _clip(hub_id: str, title: str, num_parameters: int, width: int, gmac: float, patch: int) -> KnownModel:
    """Return the row of a CLIP."""
    return KnownModel(
        name=hub_id.removeprefix("openai/"),
        title=title,
        kind="transformers",
        get=f"--model {hub_id}",
        hub_id=hub_id,
        license="MIT",
        training_data="400 million photos with texts from the web (not published); not trained for places",
        is_for_places=False,
        num_parameters=num_parameters,
        gmac=gmac,
        gmac_source="counted",
        descriptor_dim=width,
        input_size=(224, 224),
        multiple_of=patch,
        resample="bicubic",
        arxiv="2103.00020",
        note="Parameters and width are those of the vision tower. The licence is that of the code; the Hub's card states none.",
    )


_MEGALOC_HUB = TorchHubEntry("gmberton/MegaLoc", "e31e8e01de41042c9109c7e41c36a1493e22f269", "get_trained_model")
_BOQ, _BOQ_COMMIT = "amaralibey/Bag-of-Queries", "1a17a4d89506440e974c745baa584b47b40d6072"
_DINOV2_CODE = ("facebookresearch/dinov2@e1277af2ba9496fbadf7aec6eba56e8d882d1e35",)
_BOQ_VIT = TorchHubEntry(
    _BOQ, _BOQ_COMMIT, "get_trained_boq", {"backbone_name": "dinov2", "output_dim": 12288}, output="0", also=_DINOV2_CODE
)
_BOQ_R50 = TorchHubEntry(_BOQ, _BOQ_COMMIT, "get_trained_boq", {"backbone_name": "resnet50", "output_dim": 16384}, output="0")
_SALAD_HUB = TorchHubEntry("serizba/salad", "07d713f542641faeecae14e305f19a79466f4211", "dinov2_salad", also=_DINOV2_CODE)
_R50: dict[str, str | int | bool] = {"backbone": "ResNet50", "fc_output_dim": 2048}
_COSPLACE_HUB = TorchHubEntry("gmberton/CosPlace", "5b974d3ad206d10955201bc222af785e167be34a", "get_trained_model", _R50)
_EIGENPLACES_HUB = TorchHubEntry("gmberton/EigenPlaces", "92d54ea9b66b4a1e43f12230f7daa35b0d5b6a27", "get_trained_model", _R50)
_CRICAVPR_HUB = TorchHubEntry("Lu-Feng/CricaVPR", "bbb7e51b779ea4b9ff38615b5de1b94af0a52fa2", "trained_model")
_SAGE, _SAGE_COMMIT = "chenshunpeng/SAGE", "e18d13674dcdd1b684c2ae2c6348c2a8db5748e4"


def _selavpr(backbone: str, letter: str, width: int, pitts30k: float, msls_val: float) -> KnownModel:
    """Return the row of a SelaVPR++ with descriptors of floating-point numbers, without its bits."""
    hub = TorchHubEntry(
        "Lu-Feng/SelaVPRplusplus",
        "ee0e830bfd2de5a05db80b73c875ec91613066ac",
        "SelaVPRplusplus",
        {"backbone": backbone, "aggregation": "gem", "hashing": False, "rerank": False},
    )
    return KnownModel(
        name=f"selavprpp-{letter.lower()}",
        title=f"SelaVPR++ ViT-{letter}/14",
        kind="torch-hub",
        get=f"d2vpr import-hub selavprpp-{letter.lower()} --out MODEL",
        license="MIT",
        training_data=f"{GSV_CITIES}; {SF_XL}; the training parts of Pitts30k and MSLS",
        is_for_places=True,
        descriptor_dim=width,
        input_size=(224, 224),
        multiple_of=14,
        pitts30k=pitts30k,
        msls_val=msls_val,
        recall_source="README of Lu-Feng/SelaVPRplusplus",
        arxiv="2502.16601",
        torch_hub=hub,
    )


def _sage(entry: str, letter: str, num_parameters: int, pitts30k: float, msls_val: float) -> KnownModel:
    """Return the row of a SAGE without cross-image encoder."""
    hub = TorchHubEntry(_SAGE, _SAGE_COMMIT, entry)
    return KnownModel(
        name=f"sage-{letter.lower()}",
        title=f"SAGE ViT-{letter}/14",
        kind="torch-hub",
        get=f"d2vpr import-hub sage-{letter.lower()} --out MODEL",
        license="MIT",
        training_data=None,
        is_for_places=True,
        num_parameters=num_parameters,
        descriptor_dim=8448,
        input_size=(322, 322),
        multiple_of=14,
        pitts30k=pitts30k,
        msls_val=msls_val,
        recall_source="README of chenshunpeng/SAGE",
        arxiv="2509.25723",
        torch_hub=hub,
        note="The README does not name the training data. The width is quoted by a third party.",
    )


EMBEDDED = KnownModel(
    name=EMBEDDED_NAME,
    title="D²-VPR, embedded small model",
    kind="own",
    get=f"--model {EMBEDDED_NAME}",
    license="Apache-2.0",
    training_data="a few hundred photos, walks in one building, drawn streets; a MobileNetV2 of ImageNet taught it",
    is_for_places=True,
    num_parameters=1_000_000,
    gmac=0.10,
    gmac_source="counted",
    descriptor_dim=2688,
    input_size=(140, 140),
    multiple_of=14,
    arxiv="2511.12528",
    note="Small: for a first try, and where nothing may be downloaded.",
)
KNOWN_MODELS: tuple[KnownModel, ...] = (
    EMBEDDED,
    KnownModel(
        name="d2vpr",
        title="D²-VPR, published weights",
        kind="own",
        get="d2vpr convert finetune_no_encoder.pth MODEL",
        license=None,
        training_data=GSV_CITIES,
        is_for_places=True,
        num_parameters=27_200_000,
        gmac=7.12,
        gmac_source="counted",
        descriptor_dim=10752,
        input_size=(224, 224),
        multiple_of=14,
        pitts30k=91.7,
        msls_val=90.7,
        recall_source="README of tony19980810/D2VPR, with a PCA to 4096 numbers that saw the test photos",
        arxiv="2511.12528",
    ),
    KnownModel(
        name="cricavpr",
        title="CricaVPR",
        kind="own",
        get="d2vpr convert CricaVPR.pth MODEL",
        license=None,
        training_data=GSV_CITIES,
        is_for_places=True,
        num_parameters=106_800_000,
        gmac=25.66,
        gmac_source="counted",
        descriptor_dim=10752,
        input_size=(224, 224),
        multiple_of=14,
        depends_on_batch=True,
        pitts30k=90.6,
        recall_source="issue 9 of Lu-Feng/CricaVPR, without the cross-image encoder",
        arxiv="2402.19231",
        torch_hub=_CRICAVPR_HUB,
        note="The code is MIT; no licence of the weights is stated.",
    ),
    KnownModel(
        name="megaloc",
        title="MegaLoc",
        kind="onnx",
        get="--model gberton/MegaLoc",
        hub_id="gberton/MegaLoc",
        license="MIT",
        training_data=f"{GSV_CITIES}; {SF_XL}; MSLS; MegaScenes; ScanNet",
        is_for_places=True,
        num_parameters=228_600_000,
        gmac=51.1,
        gmac_source="counted with the published code",
        descriptor_dim=8448,
        input_size=(322, 322),
        multiple_of=14,
        pitts30k=94.1,
        msls_val=93.5,
        recall_source=f"{_VPR_METHODS} (Pitts30k); issue 19 of gmberton/VPR-methods-evaluation (MSLS-val)",
        arxiv="2502.17237",
        onnx=OnnxFile("gberton/MegaLoc", "megaloc.onnx", "9304d7d2473b006d2664736b5c56135c8404ff351d4592cfd9dcb4d7e8f12355"),
        torch_hub=_MEGALOC_HUB,
    ),
    _sage("sage_vitl", "L", 306_900_000, 94.7, 94.2),
    _sage("sage_vitb", "B", 88_500_000, 93.4, 93.4),
    _selavpr("dinov2-large", "L", 4096, 94.4, 94.3),
    _selavpr("dinov2-base", "B", 2048, 93.3, 94.3),
    KnownModel(
        name="boq-dinov2",
        title="BoQ, DINOv2 ViT-B/14",
        kind="torch-hub",
        get="d2vpr import-hub boq-dinov2 --out MODEL",
        license="MIT",
        training_data=GSV_CITIES,
        is_for_places=True,
        num_parameters=95_200_000,
        gmac=52.2,
        gmac_source="counted with the published code",
        descriptor_dim=12288,
        input_size=(322, 322),
        multiple_of=14,
        resample="bicubic",
        pitts30k=93.7,
        msls_val=93.8,
        recall_source="README of amaralibey/Bag-of-Queries",
        arxiv="2405.07364",
        torch_hub=_BOQ_VIT,
    ),
    KnownModel(
        name="boq-resnet50",
        title="BoQ, ResNet-50",
        kind="torch-hub",
        get="d2vpr import-hub boq-resnet50 --out MODEL",
        license="MIT",
        training_data=GSV_CITIES,
        is_for_places=True,
        num_parameters=24_000_000,
        descriptor_dim=16384,
        input_size=(384, 384),
        multiple_of=1,
        resample="bicubic",
        pitts30k=92.4,
        msls_val=91.2,
        recall_source="README of amaralibey/Bag-of-Queries",
        arxiv="2405.07364",
        torch_hub=_BOQ_R50,
    ),
    KnownModel(
        name="salad",
        title="SALAD, DINOv2 ViT-B/14",
        kind="torch-hub",
        get="d2vpr import-hub salad --out MODEL",
        license="GPL-3.0",
        training_data=GSV_CITIES,
        is_for_places=True,
        num_parameters=88_000_000,
        gmac=50.9,
        gmac_source="counted with the published code",
        descriptor_dim=8448,
        input_size=(322, 322),
        multiple_of=14,
        pitts30k=92.2,
        msls_val=92.2,
        recall_source="README of serizba/salad (MSLS-val); Pitts30k not confirmed",
        arxiv="2311.15937",
        torch_hub=_SALAD_HUB,
    ),
    KnownModel(
        name="eigenplaces",
        title="EigenPlaces, ResNet-50",
        kind="torch-hub",
        get="d2vpr import-hub eigenplaces --out MODEL",
        license="MIT",
        training_data=SF_XL,
        is_for_places=True,
        descriptor_dim=2048,
        input_size=(512, 512),
        multiple_of=1,
        pitts30k=92.5,
        recall_source=_VPR_METHODS,
        arxiv="2308.10832",
        torch_hub=_EIGENPLACES_HUB,
    ),
    KnownModel(
        name="cosplace",
        title="CosPlace, ResNet-50",
        kind="torch-hub",
        get="d2vpr import-hub cosplace --out MODEL",
        license="MIT",
        training_data=SF_XL,
        is_for_places=True,
        descriptor_dim=2048,
        input_size=(512, 512),
        multiple_of=1,
        pitts30k=90.9,
        recall_source=_VPR_METHODS,
        arxiv="2204.02287",
        torch_hub=_COSPLACE_HUB,
    ),
    KnownModel(
        name="mixvpr",
        title="MixVPR, ResNet-50",
        kind="onnx",
        get="d2vpr card-onnx MIXVPR.onnx --image-size 320 --out MODEL",
        license=None,
        training_data=GSV_CITIES,
        is_for_places=True,
        num_parameters=11_000_000,
        descriptor_dim=4096,
        input_size=(320, 320),
        pitts30k=91.6,
        msls_val=88.2,
        recall_source="README of amaralibey/MixVPR",
        arxiv="2303.02190",
        note="Its repository has no hubconf.py and no licence; export it to ONNX yourself.",
    ),
    _dinov2("small", "S", 22_100_000, 384, 13.96, registers=False),
    _dinov2("base", "B", 86_600_000, 768, 50.43, registers=False),
    _dinov2("large", "L", 304_400_000, 1024, 174.18, registers=False),
    _dinov2("giant", "g", 1_136_500_000, 1536, 635.20, registers=False),
    _dinov2("small", "S", 22_100_000, 384, 14.09, registers=True),
    _dinov2("base", "B", 86_600_000, 768, 50.85, registers=True),
    _dinov2("large", "L", 304_400_000, 1024, 175.60, registers=True),
    _dinov2("giant", "g", 1_136_500_000, 1536, 640.25, registers=True),
    _dinov3("vits16", "ViT-S/16", 21_600_000, 384, 4.70),
    _dinov3("vitb16", "ViT-B/16", 85_700_000, 768, 17.93),
    _dinov3("vitl16", "ViT-L/16", 303_100_000, 1024, 62.84),
    _dinov3("convnext-tiny", "ConvNeXt-T", 27_800_000, 768, 4.45),
    KnownModel(
        name="siglip2-base",
        title="SigLIP 2 ViT-B/16",
        kind="transformers",
        get="--model google/siglip2-base-patch16-256",
        hub_id="google/siglip2-base-patch16-256",
        license="Apache-2.0",
        training_data="photos with texts from the web (WebLI, not published); not trained for places",
        is_for_places=False,
        num_parameters=92_900_000,
        gmac=23.41,
        gmac_source="counted",
        descriptor_dim=768,
        input_size=(256, 256),
        multiple_of=16,
        arxiv="2502.14786",
        note="Parameters and width are those of the vision tower.",
    ),
    _clip("openai/clip-vit-base-patch32", "CLIP ViT-B/32", 87_500_000, 768, 4.41, 32),
    _clip("openai/clip-vit-base-patch16", "CLIP ViT-B/16", 85_800_000, 768, 17.56, 16),
    _clip("openai/clip-vit-large-patch14", "CLIP ViT-L/14", 303_200_000, 1024, 81.01, 14),
)
_BY_NAME = {name.lower(): model for model in KNOWN_MODELS for name in (model.name, model.hub_id) if name is not None}


def known_models(kind: Kind | None = None) -> tuple[KnownModel, ...]:
    """Return the rows of the table, all or those that this package opens in one way."""
    return tuple(model for model in KNOWN_MODELS if kind is None or kind in model.kinds)


def find_known(name: str | None) -> KnownModel | None:
    """Return the row of a model by its Hub id or its name in the table, in any case of letters; `None` if it is not known."""
    return None if name is None else _BY_NAME.get(name.lower())


def find_torch_hub(repository: str, entry: str, arguments: Mapping[str, Any] | None = None) -> KnownModel | None:
    """Return the row of an entry of torch.hub; `None` if it is not known.

    Args:
        repository: Owner and name on GitHub, in any case of letters.
        entry: Name of the function.
        arguments: Its arguments, where several models come from one function; `None` for the first of them.
    """
    for model in KNOWN_MODELS:
        hub = model.torch_hub
        if hub is None or (hub.repository.lower(), hub.entry) != (repository.lower(), entry):
            continue
        if arguments is None or all(str(arguments.get(name)) == str(value) for name, value in hub.arguments.items()):
            return model
    return None
