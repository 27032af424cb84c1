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
from huggingface_hub import HfApi
from torch import nn

from d2vpr_hf.gridtown import Labels
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.training.batch_norm import apply_policy, share_statistics
from d2vpr_hf.training.checkpoints import Checkpoints, RunState
from d2vpr_hf.training.data.batches import PlaceBatch
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.distributed import on_main
from d2vpr_hf.training.meter import Meter, check_finite
from d2vpr_hf.training.model_folder import write_model_folder
from d2vpr_hf.training.model_setup import freeze, see_all_processes
from d2vpr_hf.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rate
from d2vpr_hf.training.options import TrainingOptions, to_yaml
from d2vpr_hf.training.run_folder import RunFolder
from d2vpr_hf.training.validation import Measured, Validation

logger = logging.getLogger(__name__)

_LONGEST_WAIT = timedelta(hours=3)  # of processes for each other: one may render or write while the others wait
_SIGTERM_STATUS = 128 + signal.SIGTERM


def start_accelerator(options: TrainingOptions) -> Accelerator:
    """Set Accelerate up as `accelerate launch` and the options say; print the options first.

    Raises:
        ImportError: If a tracker's library is not installed.
        ValueError: If the device does not compute in the precision asked for, or Accelerate does not see the processes that
            were started: each would train, and write, for itself.
    """
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision,
        log_with=options.trackers,
        project_dir=str(RunFolder(Path(options.out)).records),
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                broadcast_buffers=False,  # BatchNorm's policy says what statistics are
                find_unused_parameters=options.leaves_parts_idle,
            ),
            InitProcessGroupKwargs(timeout=_LONGEST_WAIT),
        ],
    )
    accelerator.gradient_accumulation_steps = 1  # whatever its configuration says: the options' parts are ours
    if not accelerator.is_main_process:
        logging.getLogger("d2vpr_hf").setLevel(logging.ERROR)
        logger.setLevel(logging.WARNING)  # each process names the photos that it could not read
    logger.info("%s", to_yaml(options))
    _check_accelerator(accelerator, options)
    return accelerator


def _check_accelerator(accelerator: Accelerator, options: TrainingOptions) -> None:
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != accelerator.num_processes:
        raise ValueError(
            f"{started} processes were started, but Accelerate sees {accelerator.num_processes} train together. Its "
            "configuration does not fit this machine, as FSDP does not fit a CPU."
        )
    if options.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("A CPU does not train in fp16. Take `mixed_precision: bf16`, or `no`.")
    missing = sorted(set(options.trackers or ()) - {str(tracker) for tracker in accelerator.log_with})
    if missing:
        raise ImportError(f"No library for the trackers {', '.join(missing)}. `pip install {' '.join(missing)}` brings it.")


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
        self.folder = RunFolder(Path(options.out))
        height, width = options.size
        _check_size(options.size, model.config.patch_size)
        self.processor = D2VPRImageProcessor(size={"height": height, "width": width})
        _prepare_model(model, options)
        self.network, self.optimizer = accelerator.prepare(network, make_optimizer(network, options))
        self.checkpoints = Checkpoints(self.folder.checkpoints, options.keep_checkpoints)
        self.meter = Meter(accelerator)
        self._unreadable = 0  # photos of this process since the last line of progress
        self.state = RunState(num_processes=accelerator.num_processes)
        self._termination = _Termination()
        self._validation: Validation | None = None
        self._measured: Measured | None = None  # of the model as it is, if that was validated

    def begin(self, held_out_loss: Callable[[PlaceBatch], torch.Tensor]) -> None:
        """Resume if asked to; else write down what runs, and validate the model as it is.

        Args:
            held_out_loss: Gives the loss of a batch of held-out places.

        Raises:
            FileExistsError: If there is a run in the folder that is not to be resumed.
            ValueError: If the run to be resumed had other options, or another number of processes.
        """
        options = self.options
        set_seed(options.seed, device_specific=True)
        newest = self.checkpoints.newest_of_all() if options.resume else None
        if newest is not None:
            self.state = self.checkpoints.load(self.accelerator, newest)
        done = None if newest is None else self.state.step
        on_main(self.accelerator, lambda: self.folder.begin(options, done))
        self._open_outlets()
        self._validation = Validation(self.accelerator, options, self.processor, self.data, self.folder.records, held_out_loss)
        logger.info("%s", self._plan())
        if self._is_due(options.validate_every) and self.state.validated != self.state.step:
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

    def labels(self, batch: PlaceBatch) -> Labels:
        """Bring a batch's labels to the device."""
        assert batch.labels is not None  # of a data set with labels
        return Labels(*(part.to(self.accelerator.device, non_blocking=True) for part in batch.labels))

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
        best = "" if self.state.best is None else f", best at step {self.state.best_step} ({self.state.best:.4g})"
        logger.info("Done after %d steps%s: %s", self.state.step, best, chosen)
        return chosen

    def _set_learning_rate(self) -> float:
        options, data = self.options, self.data
        factor = learning_rate_factor(
            options.schedule, self.state.step, data.total_steps, data.sampler.batches_per_epoch, options.warmup_steps
        )
        set_learning_rate(self.optimizer, options.learning_rate * factor)
        return options.learning_rate * factor

    def _count(self, batch: PlaceBatch) -> None:
        images = len(batch.pixels) * self.accelerator.num_processes
        self.meter.count(images)
        self.state.step += 1
        self.state.images_seen += images
        self._unreadable += len(batch.unreadable)
        for photo in batch.unreadable:
            logger.warning("Left out, another photo of the place in its stead: %s", photo)
        self._measured = None

    def _do_what_is_due(self, learning_rate: float) -> None:
        validates, saves = self._is_due(self.options.validate_every), self._is_due(self.options.checkpoint_every)
        looks = validates or saves or self._is_due(self.options.log_every)
        if looks:
            self._log_step(learning_rate)
        stopped = self._termination.agreed(self.accelerator, looks)
        if validates and not stopped:
            self._validate()
            apply_policy(self.model, self.options.batch_norm)
        if self._is_over() and not stopped:
            self._save_model("last")
        if saves or stopped or self._is_over():
            self._save_checkpoint()
        if stopped:
            logger.warning("Stopped after step %d, as was asked (SIGTERM). Go on with --resume.", self.state.step)
            sys.exit(_SIGTERM_STATUS)

    def _is_due(self, every: int) -> bool:
        """Tell whether something that happens every so many steps, and at the end, is to happen now."""
        return self.state.step % every == 0 or self.state.step >= self.data.total_steps

    def _log_step(self, learning_rate: float) -> None:
        unreadable = self.accelerator.reduce(torch.tensor(self._unreadable, device=self.accelerator.device), "sum")
        self.state.unreadable_photos += int(unreadable)
        self._unreadable = 0
        numbers = {"learning_rate": learning_rate, "epoch": self.state.step / self.data.sampler.batches_per_epoch}
        counts = {"images_seen": self.state.images_seen, "unreadable_photos": self.state.unreadable_photos}
        self._log({**self.meter.read(), **numbers, **counts})

    def _save_checkpoint(self) -> None:
        share_statistics(self.model)
        self._check_weights()
        self.checkpoints.save(self.accelerator, self.state)

    def _check_weights(self) -> None:
        """Raise FloatingPointError unless weights are finite: gradients may not be where the loss is."""
        sums = torch.stack([weights.detach().float().sum() for weights in self.model.parameters()])
        check_finite({"weights": float(sums.sum())})

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
        share_statistics(self.model)
        self._measured = self._validation(self.model)
        check_finite(self._measured.numbers)
        self._log(self._measured.numbers)
        if self.state.is_better(self._measured.numbers[chosen_by], lower=chosen_by == "held_out_loss"):
            self._save_model("best")
        self.meter.go_on()

    def _save_model(self, name: str) -> None:
        """Write the model into the run's folder, with what was measured of it."""
        self._check_weights()
        weights = self.accelerator.get_state_dict(self.network)
        prefix = "model."  # see InTraining; what a network has beside its model is for training only
        weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        arguments = (self.model, weights, self.processor, self.options, self.state.step, self._measured)
        on_main(self.accelerator, lambda: write_model_folder(self.folder.path / name, *arguments))

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


def _check_size(size: tuple[int, int], patch_size: int) -> None:
    if any(side < patch_size or side % patch_size for side in size):
        raise ValueError(f"image_size must be multiples of the model's patch size, {patch_size}, got {list(size)}.")


def _prepare_model(model: VPRPreTrainedModel, options: TrainingOptions) -> None:
    """Set up what is trained of a model, and how it is computed."""
    freeze(model, options.frozen)
    see_all_processes(model)
    apply_policy(model, options.batch_norm)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if options.compile:
        model.compile()


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
