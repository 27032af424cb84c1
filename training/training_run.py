"""What both stages do around their loss: prepare, step, log, validate, keep the best, resume, stop."""

import contextlib
import dataclasses
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs, set_seed
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.training.batch_norm import apply_policy
from d2vpr_hf.training.checkpoints import Checkpoints, RunState, on_main
from d2vpr_hf.training.learning_rate import learning_rate_factor
from d2vpr_hf.training.model_folder import write_model_folder
from d2vpr_hf.training.options import TrainingOptions, to_yaml
from d2vpr_hf.training.progress import Meter
from d2vpr_hf.training.run_folder import RunFolder
from d2vpr_hf.training.trained_model import freeze, see_all_processes
from d2vpr_hf.training.training_batches import PlaceBatch
from d2vpr_hf.training.training_data import TrainingData
from d2vpr_hf.training.validation import Validation
from huggingface_hub import HfApi
from torch import nn

from d2vpr_hf.evaluation import Evaluation

logger = logging.getLogger(__name__)

_LONGEST_WAIT = timedelta(hours=3)  # of processes for each other: one may render or write while the others wait
_SIGTERM_STATUS = 128 + signal.SIGTERM


def start_accelerator(options: TrainingOptions) -> Accelerator:
    """Set Accelerate up as `accelerate launch` and the options say; print the options first.

    Raises:
        ValueError: If the device does not compute in the precision asked for, or Accelerate does not see the processes that
            were started: each would train, and write, for itself.
    """
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision,
        log_with=options.trackers,
        project_dir=str(RunFolder(Path(str(options.out))).records),
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),  # BatchNorm's policy says what statistics are
            InitProcessGroupKwargs(timeout=_LONGEST_WAIT),
        ],
    )
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != accelerator.num_processes:
        raise ValueError(
            f"{started} processes were started, but Accelerate sees {accelerator.num_processes} train together. Its "
            "configuration does not fit this machine, as FSDP does not fit a CPU."
        )
    if not accelerator.is_main_process:
        logging.getLogger("d2vpr_hf").setLevel(logging.ERROR)
    logger.info("%s", to_yaml(options))
    return accelerator


class TrainingRun:
    """A run from its first step, or its newest checkpoint, to its last.

    Args:
        options: Of the run.
        accelerator: As [`start_accelerator`] gives it.
        model: What is trained, validated and saved.
        network: What is called with pixel values in training: the model, or a module around it.
        data: Places and batches.

    Attributes:
        network: The network, ready for this process.
        state: Where the run stands.
    """

    def __init__(
        self,
        options: TrainingOptions,
        accelerator: Accelerator,
        model: VPRPreTrainedModel,
        network: nn.Module,
        data: TrainingData,
    ) -> None:
        self.options, self.accelerator, self.model, self.data = options, accelerator, model, data
        self.folder = RunFolder(Path(str(options.out)))
        height, width = options.size
        self.processor = D2VPRImageProcessor(size={"height": height, "width": width})
        _prepare_model(model, options)
        self.network, self.optimizer = accelerator.prepare(network, _make_optimizer(model, options))
        self.checkpoints = Checkpoints(self.folder.checkpoints, options.keep_checkpoints)
        self.meter = Meter(accelerator)
        self.state = RunState(num_processes=accelerator.num_processes)
        self._termination = _Termination()
        self._validation: Validation | None = None

    def begin(self, held_out_loss: Callable[[PlaceBatch], torch.Tensor]) -> None:
        """Resume if asked to; else write down what runs, and validate the model as it is.

        Args:
            held_out_loss: Gives the loss of a batch of held-out places.

        Raises:
            FileExistsError: If there is a run in the folder that is not to be resumed.
        """
        options = self.options
        set_seed(options.seed, device_specific=True)
        newest = self.checkpoints.newest() if options.resume else None
        if newest is not None:
            self.state = self.checkpoints.load(self.accelerator, newest)
        done = None if newest is None else self.state.step
        on_main(self.accelerator, lambda: self.folder.begin(options, done))
        self._open_outlets()
        self._validation = Validation(self.accelerator, options, self.processor, self.data, self.folder.records, held_out_loss)
        logger.info("%s", self._plan())
        if newest is None:
            self._validate()
        apply_policy(self.model, options.batch_norm)

    def batches(self) -> Iterator[PlaceBatch]:
        """Give the batches that are still to come; after each, [`update`] must be called."""
        if self._is_over():
            return
        with self._termination:
            for batch in self.data.batches(self.state.step):
                yield batch
                if self._is_over():
                    return

    def parts(self, batch: PlaceBatch) -> Iterator[PlaceBatch]:
        """Cut this process's share of a batch into the parts whose gradients are added up."""
        count = self.options.gradient_accumulation_steps
        cut = zip(batch.pixels.chunk(count), batch.place_ids.chunk(count), strict=True)
        for number, (pixels, place_ids) in enumerate(cut, 1):
            waits = number < count  # for the processes to exchange gradients
            with self.accelerator.no_sync(self.network) if waits else contextlib.nullcontext():
                yield PlaceBatch(pixels, place_ids, [])

    def pixel_values(self, batch: PlaceBatch) -> torch.Tensor:
        """Bring a batch to the device, normalised: (B, 3, height, width) float32."""
        pixels = batch.pixels.to(self.accelerator.device, non_blocking=True)
        return self.processor(pixels, do_resize=False, return_tensors="pt")["pixel_values"]

    def backward(self, loss: torch.Tensor, numbers: dict[str, torch.Tensor], parts: int = 1) -> None:
        """Add a loss's gradients to those of the step.

        Args:
            loss: A scalar, averaged over the images of a part.
            numbers: Scalars for the log, beside the loss.
            parts: In how many parts the step's losses come.
        """
        self.accelerator.backward(loss / parts)
        self.meter.add({"loss": loss, **numbers})

    def update(self, batch: PlaceBatch) -> None:
        """Take a step along the gradients, then do what is due: log, validate, checkpoint.

        Args:
            batch: What the gradients are of.

        Raises:
            FloatingPointError: If the loss is not finite.
            OSError: If a checkpoint or model cannot be written.
            SystemExit: If the process was asked to end (SIGTERM), after a checkpoint.
        """
        learning_rate = self._set_learning_rate()
        if self.options.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.options.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._count(batch)
        self._do_what_is_due(learning_rate)

    def finish(self) -> Path:
        """Return the folder of the best model (of the last, without validation), uploaded if that was asked for."""
        self.accelerator.end_training()
        chosen = self.folder.path / ("best" if self.options.chosen_by else "last")
        if self.options.push_to_hub and self.accelerator.is_main_process:
            HfApi().upload_folder(repo_id=self.options.push_to_hub, folder_path=chosen)
            logger.info("Uploaded %s to %s.", chosen, self.options.push_to_hub)
        logger.info("Done after %d steps: %s", self.state.step, chosen)
        return chosen

    def _set_learning_rate(self) -> float:
        options, data = self.options, self.data
        factor = learning_rate_factor(
            options.schedule, self.state.step, data.total_steps, data.sampler.batches_per_epoch, options.warmup_steps
        )
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate * factor
        return options.learning_rate * factor

    def _count(self, batch: PlaceBatch) -> None:
        self.state.step += 1
        images = len(batch.pixels) * self.accelerator.num_processes
        self.meter.count(images)
        self.state.images_seen += images
        self.state.unreadable_photos += len(batch.unreadable)
        for photo in batch.unreadable:
            logger.warning("Left out, another photo of the place in its stead: %s", photo)

    def _do_what_is_due(self, learning_rate: float) -> None:
        step, options, at_end = self.state.step, self.options, self.state.step >= self.data.total_steps
        validates, saves = (at_end or step % every == 0 for every in (options.validate_every, options.checkpoint_every))
        looks = validates or saves or step % options.log_every == 0
        if looks:
            epoch = step / self.data.sampler.batches_per_epoch
            self._log({**self.meter.read(), "learning_rate": learning_rate, "epoch": epoch})
        if validates:
            self._validate()
            apply_policy(self.model, options.batch_norm)
        stopped = self._termination.agreed(self.accelerator, looks)
        if self._is_over():
            self._save_model("last", None)
        if saves or stopped or self._is_over():
            self.checkpoints.save(self.accelerator, self.state)
        if stopped:
            logger.warning("Stopped after step %d, as was asked (SIGTERM). Go on with --resume.", step)
            sys.exit(_SIGTERM_STATUS)

    def _is_over(self) -> bool:
        patience = self.options.patience
        out_of_patience = patience is not None and self.state.worse_in_a_row >= patience
        return out_of_patience or self.state.step >= self.data.total_steps

    def _validate(self) -> None:
        """Measure the model, in eval mode from then on; keep it if it is the best so far."""
        chosen_by = self.options.chosen_by
        if chosen_by is None or self._validation is None:
            return
        self.meter.pause()
        measured = self._validation(self.model)
        self._log(measured.numbers)
        value = measured.numbers[chosen_by]
        if self.state.best is None or (value < self.state.best if chosen_by == "held_out_loss" else value > self.state.best):
            self.state.best, self.state.best_step, self.state.worse_in_a_row = value, self.state.step, 0
            self._save_model("best", measured.evaluation)
        else:
            self.state.worse_in_a_row += 1
        self.meter.go_on()

    def _save_model(self, name: str, evaluation: Evaluation | None) -> None:
        weights = self.accelerator.get_state_dict(self.network)
        prefix = "model." if self.accelerator.unwrap_model(self.network) is not self.model else ""
        weights = {key.removeprefix(prefix): value for key, value in weights.items()}
        place = self.folder.path / name
        arguments = (self.model, weights, self.processor, self.options, self.state.step, evaluation)
        on_main(self.accelerator, lambda: write_model_folder(place, *arguments))

    def _log(self, numbers: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            self.folder.log(self.state.step, numbers)
        self.accelerator.log(numbers, self.state.step)
        shown = "  ".join(f"{name} {number:.4g}" for name, number in numbers.items())
        logger.info("step %d/%d  %s", self.state.step, self.data.total_steps, shown)

    def _open_outlets(self) -> None:
        """Make what numbers and models are sent to, so that a wrong name is an error now and not at the end."""
        options = self.options
        if options.trackers:
            plain = {name: value for name, value in dataclasses.asdict(options).items() if isinstance(value, str | int | float)}
            self.accelerator.init_trackers(options.project, plain)
        if options.push_to_hub and self.accelerator.is_main_process:
            HfApi().create_repo(options.push_to_hub, private=options.private, exist_ok=True)

    def _plan(self) -> str:
        data, options, accelerator = self.data, self.options, self.accelerator
        trained = sum(weights.numel() for weights in self.model.parameters() if weights.requires_grad)
        return (
            f"{data.num_places} places to train on, {options.held_out_places} held out\n"
            f"{data.sampler.batches_per_epoch} batches an epoch, of {options.places_per_batch} places x "
            f"{options.images_per_place} photos\n"
            f"{trained / 1e6:.2f} of {self.model.num_parameters() / 1e6:.2f} M parameters are trained\n"
            f"steps {self.state.step} to {data.total_steps}, on {accelerator.num_processes} x {accelerator.device.type}"
        )


def _prepare_model(model: VPRPreTrainedModel, options: TrainingOptions) -> None:
    """Set up what is trained of a model, and how it is computed."""
    freeze(model, options.frozen)
    see_all_processes(model)
    apply_policy(model, options.batch_norm)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if options.compile:
        model.compile()


def _make_optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(trained, options.learning_rate, weight_decay=options.weight_decay)
    if options.weight_decay:
        raise ValueError(f"adam has no weight decay, got weight_decay={options.weight_decay}; take adamw.")
    return torch.optim.Adam(trained, options.learning_rate)


class _Termination:
    """Note a SIGTERM instead of dying of it, so that the step at hand is finished and saved."""

    def __init__(self) -> None:
        self._asked = False

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._before)

    def agreed(self, accelerator: Accelerator, looks: bool) -> bool:
        """Tell whether any process was asked to end; several processes bring that together only where `looks` is set."""
        if accelerator.num_processes == 1:
            return self._asked
        return looks and bool(accelerator.reduce(torch.tensor(float(self._asked), device=accelerator.device)) > 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._asked = True


__all__ = ["TrainingRun", "start_accelerator"]
