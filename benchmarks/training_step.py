"""Images a second and peak memory of a training step, compared with the published code's way to compute the same step.

    python benchmarks/training_step.py [--images 32] [--rounds 5] [--device cuda]

Stage 1: a ViT-S student and a ViT-B teacher (CricaVPR with its encoder) on 32 images. Stage 2, `--stage finetune --images 512`:
blocks 9 to 12 and all later modules are trained. Input is rendered by Gridtown; weights are random, because cost does not
depend on them. The published way computes in float32, keeps the teacher in the graph, and aggregates region by region, each
with a separate offset map. The script first checks that both ways give the same loss in float32. Then both ways alternate;
compare the ratio of their medians. Memory is the peak of the device's allocator; on a CPU it is not measured.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from d2vpr_hf import CricaVPRConfig, CricaVPRModel, D2VPRConfig, D2VPRModel
from d2vpr_hf.gridtown import Variation, draw_photo, make_town
from d2vpr_hf.modeling import D2VPRImageProcessor
from d2vpr_hf.modeling.deformable_aggregation import DeformableAggregator, region_boxes, sample_grid, sample_map
from d2vpr_hf.pretrained.teachers import PlaceTeacher, TeacherTargets
from d2vpr_hf.training.batch_norm import apply_policy
from d2vpr_hf.training.model_setup import freeze
from d2vpr_hf.training.objectives.distillation_loss import DistillationLoss
from d2vpr_hf.training.objectives.metric_loss import MetricLoss

_FROZEN = ["embeddings.*", "encoder.layers.[0-7].*"]


class RegionByRegionAggregator(DeformableAggregator):
    """An aggregator that computes as the published code does: each region has its offset map, and reads two maps."""

    def forward(self, tokens: torch.Tensor, grid_size: tuple[int, int]) -> tuple[torch.Tensor, ...]:
        """Aggregate tokens (B, 1 + N, D)."""
        global_feature, patches = tokens[:, 0], tokens[:, 1:]
        regions = [self._region(region, global_feature, patches, grid_size) for region in self.config.regions]
        pooled, positions, boxes = (torch.cat(tensors, dim=1) for tensors in zip(*regions, strict=True))
        whole = boxes.new_tensor([0.5, 0.5, 1, 1]).expand(len(boxes), 1, 4)
        enhanced = self.fusion(global_feature, pooled)
        features = torch.cat((enhanced.unsqueeze(1), pooled), dim=1)
        boxes = torch.cat((whole, boxes), dim=1)
        return features + self.position_encoding(boxes), positions, boxes

    def _region(
        self, region: dict[str, object], global_feature: torch.Tensor, patches: torch.Tensor, grid_size: tuple[int, int]
    ) -> tuple[torch.Tensor, ...]:
        grid, head = sample_grid([region], patches.device), self.sampler.offset_generator
        both = torch.cat((patches, global_feature.unsqueeze(1).expand_as(patches)), dim=2)
        weight = torch.cat((head.patch_projection.weight, head.global_projection.weight), dim=1)
        hidden = nn.functional.linear(both, weight, head.global_projection.bias)
        offset_map = head.output(nn.functional.relu(hidden)).transpose(1, 2).unflatten(2, grid_size)
        values = self.sampler._read_offsets(offset_map, grid.samples).transpose(1, 2)
        smallest, largest = self.config.scale_range
        spread = (grid.samples - grid.centres) * (smallest + (largest - smallest) * values[..., 2:].sigmoid())
        limit = self.config.offset_limit
        positions = (grid.centres + spread + values[..., :2].clamp(-limit, limit) * grid.sizes).clamp(0, 1)
        features = patches.transpose(1, 2).unflatten(2, grid_size)
        pooled = self.gem(sample_map(features, 2 * positions - 1), grid.averaging)
        return pooled, positions, region_boxes(positions, grid)[:, 1:]


class Networks(NamedTuple):
    """Configurations of the networks of a step."""

    student: D2VPRConfig = D2VPRConfig(fusion_dropout=0.0)
    teacher: CricaVPRConfig = CricaVPRConfig()


PUBLISHED = Networks()


class Way(NamedTuple):
    """One way to compute a step.

    Attributes:
        loss_of: Computes the loss of images.
        parameters: Parameters that are trained.
    """

    loss_of: Callable[[torch.Tensor], torch.Tensor]
    parameters: list[nn.Parameter]


def make_student(device: str, aggregator: type[DeformableAggregator], config: D2VPRConfig) -> D2VPRModel:
    """Return a student, with the same weights each time."""
    torch.manual_seed(0)
    student = D2VPRModel(config)
    student.aggregator.__class__ = aggregator
    return student.to(device)


def make_teacher(device: str, config: CricaVPRConfig) -> CricaVPRModel:
    """Return a CricaVPR, with the same weights each time."""
    torch.manual_seed(1)
    return CricaVPRModel(config).to(device).eval()


def our_way(stage: str, device: str, dtype: torch.dtype, networks: Networks = PUBLISHED) -> Way:
    """Compute as `distill.py` and `finetune.py` do: the teacher outside the graph, all regions at once, in `dtype`."""
    student = make_student(device, DeformableAggregator, networks.student)
    teacher = PlaceTeacher(make_teacher(device, networks.teacher).to(dtype)) if stage == "distill" else None

    def loss_of(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            output = student(images)
        if teacher is None:
            return metric_loss(output.pooler_output)
        targets = TeacherTargets(*(target.float() for target in teacher(images.to(dtype))))
        return DistillationLoss()(output, targets)[0]

    return Way(loss_of, prepare(student, stage))


def published_way(stage: str, device: str, networks: Networks = PUBLISHED) -> Way:
    """Compute in float32, with the teacher in the graph and region by region."""
    student = make_student(device, RegionByRegionAggregator, networks.student)
    teacher = make_teacher(device, networks.teacher) if stage == "distill" else None

    def loss_of(images: torch.Tensor) -> torch.Tensor:
        descriptors = student(images).pooler_output
        if teacher is None:
            return metric_loss(descriptors)
        return nn.functional.mse_loss(descriptors, teacher(images).pooler_output)

    return Way(loss_of, prepare(student, stage))


def prepare(student: D2VPRModel, stage: str) -> list[nn.Parameter]:
    """Put a student into train mode, and return the parameters that are trained."""
    apply_policy(student, "published")
    freeze(student, _FROZEN if stage == "finetune" else None)
    return [parameter for parameter in student.parameters() if parameter.requires_grad]


def metric_loss(descriptors: torch.Tensor) -> torch.Tensor:
    """Compute the second stage's loss; each place has four photos."""
    return MetricLoss()(descriptors, torch.arange(len(descriptors), device=descriptors.device) // 4)[0]


def render_images(count: int, device: str) -> torch.Tensor:
    """Render normalised photos of Gridtown, four of each place."""
    town = make_town(seed=1, num_places=max(1, count // 4))
    photos = [draw_photo(town.city, number // 4, 0, number % 4, Variation()) for number in range(count)]
    pixels = town.take(photos, (224, 224), device)
    return D2VPRImageProcessor()(pixels, do_resize=False, return_tensors="pt")["pixel_values"]


def time_steps(ways: dict[str, Way], images: torch.Tensor, rounds: int) -> dict[str, tuple[float, float]]:
    """Return each way's median seconds for a step and its peak memory in GB, after one round of warming up."""
    optimizers = {name: torch.optim.AdamW(way.parameters, lr=1e-6) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    memory = dict.fromkeys(ways, 0.0)
    for _ in range(rounds + 1):
        for name, way in ways.items():
            spent, held = time_step(way, optimizers[name], images)
            seconds[name].append(spent)
            memory[name] = max(memory[name], held)
    return {name: (statistics.median(spent[1:]), memory[name]) for name, spent in seconds.items()}


def time_step(way: Way, optimizer: torch.optim.Optimizer, images: torch.Tensor) -> tuple[float, float]:
    """Take a step; return its seconds and the memory that it needed beyond what was held before, in GB."""
    on_gpu = images.device.type == "cuda"
    optimizer.zero_grad(set_to_none=True)
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    start = time.perf_counter()
    way.loss_of(images).backward()
    optimizer.step()
    if on_gpu:
        torch.cuda.synchronize()
    spent = time.perf_counter() - start
    return spent, (torch.cuda.max_memory_allocated() - before) / 1e9 if on_gpu else 0.0


def check_equal(stage: str, device: str, images: torch.Tensor, networks: Networks = PUBLISHED) -> None:
    """Raise AssertionError unless both ways give the same loss in float32."""
    ours, theirs = our_way(stage, device, torch.float32, networks), published_way(stage, device, networks)
    losses = [way.loss_of(images).item() for way in (ours, theirs)]
    if abs(losses[0] - losses[1]) > 1e-4 * abs(losses[1]):
        raise AssertionError(f"The two ways differ: losses {losses}.")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=("distill", "finetune"), default="distill")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    images = render_images(arguments.images, arguments.device)
    check_equal(arguments.stage, arguments.device, images[:8])
    dtype = torch.bfloat16 if arguments.device == "cuda" else torch.float32
    ways = {
        "the published way": published_way(arguments.stage, arguments.device),
        "ours": our_way(arguments.stage, arguments.device, dtype),
    }
    measured = time_steps(ways, images, arguments.rounds)
    first_seconds, first_memory = measured["the published way"]
    print(
        f"torch {torch.__version__}, {arguments.device}, stage {arguments.stage}, {arguments.images} images of 224x224, ours in"
    )
    print(f"{dtype}, median of {arguments.rounds} alternating rounds\n")
    print("| way | images/s | memory |\n| --- | --- | --- |")
    for name, (seconds, memory) in measured.items():
        held = f"{memory:.1f} GB ({memory / first_memory:.2f}x)" if first_memory else "not measured"
        print(f"| {name} | {arguments.images / seconds:.1f} ({first_seconds / seconds:.2f}x) | {held} |")


if __name__ == "__main__":
    main()
