"""The run around a stage's loss: prepare, step, log, validate, keep the best model, resume, stop."""

import contextlib
import dataclasses
import logging
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs, set_seed
from PIL.Image import Resampling
from torch import nn

from d2vpr_hf.gridtown import Labels
from d2vpr_hf.hub.push_model import push_model
from d2vpr_hf.hub.uploads import create_repository
from d2vpr_hf.modeling import D2VPRImageProcessor, VPRPreTrainedModel
from d2vpr_hf.modeling.modeling_vpr import part_name
from d2vpr_hf.training.batch_norm import PreciseStatistics, apply_policy, share_statistics
from d2vpr_hf.training.checkpoints import Checkpoints, RunState
from d2vpr_hf.training.data.batches import PlaceBatch
from d2vpr_hf.training.data.mixture import OneSourceSampler
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.distributed import on_main
from d2vpr_hf.training.meter import Meter, check_finite
from d2vpr_hf.training.model_folder import write_model_folder
from d2vpr_hf.training.model_setup import freeze, gather_for_cross_image_encoder
from d2vpr_hf.training.optimizer import learning_rate_factor, make_optimizer, set_learning_rate
from d2vpr_hf.training.options import TrainingOptions, to_yaml
from d2vpr_hf.training.random_streams import Purpose, make_rng
from d2vpr_hf.training.run_folder import RunFolder
from d2vpr_hf.training.validation import Measurement, Validation
from d2vpr_hf.training.weight_average import MovingAverage
from d2vpr_hf.utils.interrupts import SignalHandler, exit_status, signal_name

logger = logging.getLogger(__name__)

_LONGEST_WAIT = timedelta(hours=3)  # of processes for each other: one may render or write while the others wait


class RunStoppedError(Exception):
    """SIGINT (Ctrl-C) or SIGTERM stopped a run before its last step, after a checkpoint was saved.

    Attributes:
        exit_status: Exit status of a script that is stopped by this error.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_status = exit_status(number)


def start_accelerator(options: TrainingOptions) -> Accelerator:
    """Set up Accelerate by the configuration of `accelerate launch` and the options; print the options first.

    Raises:
        ImportError: If a tracker's library is not installed.
        FileExistsError: If a folder of the run that files are written into is a link.
        ValueError: If the device does not support `mixed_precision`, or if Accelerate does not see all processes that were
            started: each of them would train, and write, for itself.
    """
    RunFolder(Path(options.out)).refuse_links()
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision,
        log_with=options.trackers,
        project_dir=str(RunFolder(Path(options.out)).records),
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                broadcast_buffers=False,  # BatchNorm's policy decides about the statistics
                find_unused_parameters=options.has_unused_parameters,
            ),
            InitProcessGroupKwargs(timeout=_LONGEST_WAIT),
        ],
    )
    accelerator.gradient_accumulation_steps = 1  # TrainingRun accumulates gradients itself
    if not accelerator.is_main_process:
        logging.getLogger("d2vpr_hf").setLevel(logging.ERROR)
        logger.setLevel(logging.WARNING)  # each process names the photos that it skips
    logger.info("%s", to_yaml(options))
    _check_accelerator(accelerator, options)
    return accelerator


def _check_accelerator(accelerator: Accelerator, options: TrainingOptions) -> None:
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started != accelerator.num_processes:
        raise ValueError(
            f"{started} processes were started, but Accelerate sees {accelerator.num_processes} train together. Its "
            "configuration does not fit this machine, for example FSDP on a CPU."
        )
    if options.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ValueError("A CPU does not train in fp16. Take `mixed_precision: bf16`, or `no`.")
    if options.ema_decay is not None and accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError(
            "`ema_decay` averages whole weights, and FSDP shards them. Set ema_decay to null, or train without FSDP."
        )
    missing = sorted(set(options.trackers or ()) - {str(tracker) for tracker in accelerator.log_with})
    if missing:
        raise ImportError(f"The trackers {', '.join(missing)} are not installed: `pip install {' '.join(missing)}`.")


class TrainingRun:
    """A run from its first step, or its newest checkpoint, to its last step.

    Args:
        options: Options of the run.
        accelerator: The accelerator that [`start_accelerator`] returned.
        model: Model to train, validate and save.
        network: Module that training calls with pixel values: the model, or a module around it.
        data: Places and batches.

    Attributes:
        network: The network, prepared for this process.
        state: Progress of the run.
    """

    def __init__(
        self,
        options: TrainingOptions,
        accelerator: Accelerator,
        model: VPRPreTrainedModel,
        network: nn.Module,
        data: TrainingData,
    ) -> None:
        self.options = options
        self.accelerator = accelerator
        self.model = model
        self.data = data
        self.folder = RunFolder(Path(options.out))
        height, width = options.size
        patch_size = model.config.patch_size
        for name, sizes in (("image_size", [options.size]), ("image_sizes", options.sizes)):
            wrong = [list(size) for size in sizes if any(side < patch_size or side % patch_size for side in size)]
            if wrong:
                raise ValueError(f"{name} must be multiples of the model's patch size, {patch_size}, got {wrong[0]}.")
        resample = Resampling[options.resize.upper()]
        self.processor = D2VPRImageProcessor(size={"height": height, "width": width}, resample=resample)
        _prepare_model(model, options)
        self.network, self.optimizer = accelerator.prepare(network, make_optimizer(network, options))
        self.average = None if options.ema_decay is None else MovingAverage(self.network, options.ema_decay)
        if self.average is not None:
            accelerator.register_for_checkpointing(self.average)
        self.checkpoints = Checkpoints(self.folder.checkpoints, options.keep_checkpoints)
        self.meter = Meter(accelerator)
        self._skipped_photos = 0  # by this process, since the last line of the log
        self.state = RunState(num_processes=accelerator.num_processes)
        self._stop = _DeferredStop()
        self._validation: Validation | None = None
        self._measurement: Measurement | None = None  # of the current weights; `None` if they were not validated

    def begin(self, held_out_loss: Callable[[PlaceBatch], torch.Tensor], prepare: Callable[[bool], None] | None = None) -> None:
        """Resume from the newest checkpoint if `resume` is set and a checkpoint exists, else record and validate a new run.

        Args:
            held_out_loss: Computes the loss of a batch of held-out places.
            prepare: Called before the first validation, with whether the run resumes; it may write into the run's folder.

        Raises:
            FileExistsError: If the folder holds a run and `resume` is not set.
            ValueError: If the run to resume had other options or another number of processes.
        """
        options = self.options
        set_seed(options.seed, device_specific=True)
        newest = self.checkpoints.newest_of_all() if options.resume else None
        if newest is not None:
            self.state = self.checkpoints.load(self.accelerator, newest)
        resumed_step = None if newest is None else self.state.step
        on_main(self.accelerator, lambda: self.folder.begin(options, resumed_step))
        self._open_trackers_and_repository()
        self._validation = Validation(self.accelerator, options, self.processor, self.data, self.folder.records, held_out_loss)
        logger.info("%s", self._plan())
        if prepare is not None:
            prepare(newest is not None)
        if self._is_due(self._validate_every) and self.state.validated != self.state.step:
            self._validate()
        apply_policy(self.model, options.batch_norm)

    def batches(self) -> Iterator[PlaceBatch]:
        """Yield the remaining batches of this process. The caller must call `update` after each."""
        if self._is_over():
            return
        with self._stop:
            for batch in self.data.batches(self.state.step):
                yield batch._replace(size=draw_size(self.options, self.state.step))
                if self._is_over():
                    return

    def micro_batches(self, batch: PlaceBatch) -> Iterator[PlaceBatch]:
        """Divide this process's share of a batch into micro-batches, whose gradients are added up."""
        count = self.options.gradient_accumulation_steps
        teacher_pixels = [None] * count if batch.teacher_pixels is None else batch.teacher_pixels.chunk(count)
        chunks = zip(batch.pixels.chunk(count), batch.place_ids.chunk(count), teacher_pixels, strict=True)
        for number, (pixels, place_ids, seen_by_teacher) in enumerate(chunks, 1):
            # processes exchange gradients in the backward pass of the last micro-batch only
            with self.accelerator.no_sync(self.network) if number < count else contextlib.nullcontext():
                yield PlaceBatch(pixels, place_ids, [], teacher_pixels=seen_by_teacher, size=batch.size)

    def pixel_values(self, batch: PlaceBatch) -> torch.Tensor:
        """Move a batch to the device and normalise it: (B, 3, height, width) float32, in the batch's size."""
        pixels = batch.pixels.to(self.accelerator.device, non_blocking=True)
        height, width = batch.size or self.options.size
        is_other = tuple(pixels.shape[2:]) != (height, width)  # photos that a teacher, or another batch, sees in another size
        size = {"height": height, "width": width}
        return self.processor(pixels, do_resize=is_other, size=size, return_tensors="pt")["pixel_values"]

    def labels(self, batch: PlaceBatch) -> Labels:
        """Move a batch's labels to the device."""
        assert batch.labels is not None  # the data set has labels
        return Labels(*(label.to(self.accelerator.device, non_blocking=True) for label in batch.labels))

    def backward(self, loss: torch.Tensor, numbers: dict[str, torch.Tensor], micro_batches: int = 1) -> None:
        """Add a loss's gradients to those of the step.

        Args:
            loss: A scalar, the mean over the images of a micro-batch.
            numbers: More scalars for the log.
            micro_batches: Number of micro-batches of the step.
        """
        self.accelerator.backward(loss / micro_batches)
        self.meter.add({"loss": loss, **numbers})

    def update(self, batch: PlaceBatch) -> None:
        """Update the weights by the gradients, then log, validate and save a checkpoint if they are due.

        Args:
            batch: The batch that the gradients are from.

        Raises:
            FloatingPointError: If the loss is not finite.
            OSError: If a checkpoint or model cannot be written.
            RunStoppedError: If the process received SIGINT or SIGTERM, after saving a checkpoint.
        """
        learning_rate = self._set_learning_rate()
        if self.options.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.options.max_grad_norm)
        if not self.state.trained_parts:
            self.state.trained_parts = self._parts_with_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update()
        self._count(batch)
        self._do_due_work(learning_rate)

    def finish(self) -> Path:
        """Return the folder of the best model (without validation, the last), after uploading it if `push_to_hub` is set."""
        self.accelerator.end_training()
        chosen = self.folder.path / ("best" if self.options.chosen_by else "last")
        if self.options.push_to_hub and self.accelerator.is_main_process:
            url = push_model(
                chosen,
                self.options.push_to_hub,
                private=self.options.private or None,
                commit_message=f"Step {self._pushed_step()}",
            )
            logger.info("Uploaded %s: %s", chosen, url)
        best = "" if self.state.best is None else f", best at step {self.state.best_step} ({self.state.best:.4g})"
        logger.info("Done after %d steps%s: %s", self.state.step, best, chosen)
        return chosen

    def _pushed_step(self) -> int:
        """Return the step of the model that is uploaded."""
        return self.state.step if self.state.best is None else self.state.best_step

    def _parts_with_gradients(self) -> list[str]:
        """Return the parts of the model that the loss of this stage trains."""
        names = [name for name, weights in self.model.named_parameters() if weights.grad is not None]
        return sorted({part_name(name.replace("_fsdp_wrapped_module.", "")) for name in names})

    def _set_learning_rate(self) -> float:
        options, data = self.options, self.data
        factor = learning_rate_factor(
            options.schedule,
            self.state.step,
            data.total_steps,
            data.sampler.batches_per_epoch,
            options.warmup_steps,
            options.milestones or (),
            options.milestone_factor,
        )
        set_learning_rate(self.optimizer, options.learning_rate * factor)
        return options.learning_rate * factor

    def _count(self, batch: PlaceBatch) -> None:
        images = len(batch.pixels) * self.accelerator.num_processes
        self.meter.count(images)
        self.state.step += 1
        self.state.images_seen += images
        self._skipped_photos += len(batch.skipped)
        for photo in batch.skipped:
            logger.warning("Skipped a photo; another one of its place replaces it: %s", photo)
        self._measurement = None

    def _do_due_work(self, learning_rate: float) -> None:
        """Log, validate and save after a step, if they are due; raise RunStoppedError after SIGINT or SIGTERM."""
        validates = self._is_due(self._validate_every)
        saves = self._is_due(self.options.checkpoint_every)
        logs = validates or saves or self._is_due(self.options.log_every)
        if logs:
            self._log_step(learning_rate)
        stop = self._stop.agreed_signal(self.accelerator, exchange=logs)
        if validates and stop is None:
            self._validate()
            apply_policy(self.model, self.options.batch_norm)
        if self._is_over() and stop is None:
            with self._final_weights():
                self._save_model("last")
            apply_policy(self.model, self.options.batch_norm)
        if saves or stop is not None or self._is_over():
            self._save_checkpoint()
        if stop is not None:
            raise RunStoppedError(
                f"{signal_name(stop)} stopped the run. {self.checkpoints.newest()} is its checkpoint after step "
                f"{self.state.step}. Continue it with `resume=True`.",
                stop,
            )

    @property
    def _validate_every(self) -> int:
        """The number of steps between validations."""
        epochs = self.options.validate_every_epochs
        return self.options.validate_every if epochs is None else epochs * self.data.sampler.batches_per_epoch

    def _is_due(self, every: int) -> bool:
        """Return whether work that is done every `every` steps and after the last step is due now."""
        return self.state.step % every == 0 or self.state.step >= self.data.total_steps

    def _log_step(self, learning_rate: float) -> None:
        skipped = self.accelerator.reduce(torch.tensor(self._skipped_photos, device=self.accelerator.device), "sum")
        self.state.unreadable_photos += int(skipped)
        self._skipped_photos = 0
        numbers = {"learning_rate": learning_rate, "epoch": self.state.step / self.data.sampler.batches_per_epoch}
        counts = {"images_seen": self.state.images_seen, "unreadable_photos": self.state.unreadable_photos}
        self._log({**self.meter.read(), **numbers, **counts})

    def _save_checkpoint(self) -> None:
        share_statistics(self.model)
        self._check_weights()
        self.checkpoints.save(self.accelerator, self.state)

    def _check_weights(self) -> None:
        """Raise FloatingPointError unless all weights are finite: gradients may be infinite where the loss is finite."""
        sums = torch.stack([weights.detach().float().sum() for weights in self.model.parameters()])
        check_finite({"weights": float(sums.sum())})

    def _is_over(self) -> bool:
        patience = self.options.patience
        out_of_patience = patience is not None and self.state.worse_in_a_row >= patience
        return out_of_patience or self.state.step >= self.data.total_steps

    def _validate(self) -> None:
        """Measure the model and save it if it is the best so far. The model is in eval mode afterwards."""
        chosen_by = self.options.chosen_by
        if chosen_by is None or self._validation is None:
            return
        self.meter.pause()
        with self._final_weights():
            self._measurement = self._validation(self.model)
            numbers = self._measurement.numbers
            check_finite(numbers)
            self._log(numbers)
            is_best = self.state.is_best(numbers[chosen_by], lower_is_better=chosen_by == "held_out_loss")
            self.state.record_validation(numbers[chosen_by], is_best=is_best)
            if is_best:
                self._save_model("best")
        self.meter.go_on()

    @contextlib.contextmanager
    def _final_weights(self) -> Iterator[None]:
        """Set the model to the weights and statistics that are validated and saved, in eval mode."""
        with contextlib.nullcontext() if self.average is None else self.average.in_place():
            share_statistics(self.model)
            if self.options.precise_batch_norm:
                batches = self.data.mixed_batches(self.options.precise_batch_norm)
                PreciseStatistics(self.model).measure(self.pixel_values(batch) for batch in batches)
            self.model.eval()
            yield

    def _save_model(self, name: str) -> None:
        """Write the model, with its measurement, into the run's folder."""
        self._check_weights()
        config, trained = self.model.config, self.state.trained_parts
        config.untrained_parts = [part for part in config.untrained_parts if part not in trained]
        weights = self.accelerator.get_state_dict(self.network)
        prefix = "model."  # see TrainingWrapper; the network's other modules are for training only
        weights = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
        on_main(
            self.accelerator,
            lambda: write_model_folder(
                self.folder.path / name,
                self.model,
                weights,
                self.processor,
                self.options,
                self.state.step,
                self._measurement,
            ),
        )

    def _log(self, numbers: dict[str, float]) -> None:
        if self.accelerator.is_main_process:
            self.folder.log(self.state.step, numbers)
        self.accelerator.log(numbers, self.state.step)
        shown = "  ".join(f"{name} {number:.4g}" for name, number in numbers.items())
        logger.info("step %d/%d  %s", self.state.step, self.data.total_steps, shown)

    def _open_trackers_and_repository(self) -> None:
        """Open the trackers and create the Hub repository, so that a wrong name is an error now and not at the end."""
        options = self.options
        if options.trackers:
            plain = {name: value for name, value in dataclasses.asdict(options).items() if isinstance(value, str | int | float)}
            self.accelerator.init_trackers(options.project, plain)
        if options.push_to_hub and self.accelerator.is_main_process:
            create_repository(options.push_to_hub, "model", private=options.private or None)

    def _plan(self) -> str:
        data, options = self.data, self.options
        trained = sum(weights.numel() for weights in self.model.parameters() if weights.requires_grad)
        return (
            f"{data.num_places} places to train on, {options.held_out_places} held out\n{_shares_text(data)}"
            f"{data.sampler.batches_per_epoch} batches an epoch, of {options.places_per_batch} places x "
            f"{options.images_per_place} photos\n"
            f"{trained / 1e6:.2f} of {self.model.num_parameters() / 1e6:.2f} M parameters are trained\n"
            f"steps {self.state.step} to {data.total_steps}, "
            f"on {self.accelerator.num_processes} x {self.accelerator.device.type}"
        )


def draw_size(options: TrainingOptions, step: int) -> tuple[int, int]:
    """Return the height and width of the images of a step."""
    sizes = options.sizes
    return sizes[int(make_rng(Purpose.IMAGE_SIZE, options.seed, step).integers(len(sizes)))] if len(sizes) > 1 else sizes[0]


def _shares_text(data: TrainingData) -> str:
    """Return a line for each source of a mixture; an empty text for one source."""
    if len(data.shares) == 1:
        return ""
    if isinstance(data.sampler, OneSourceSampler):
        counts = [count for _, count in data.shares.values()]
        lines = zip(data.shares, counts, data.sampler.shares, strict=True)
        return "".join(f"  {name}: {count} places, {share:.1%} of the batches\n" for name, count, share in lines)
    return "".join(f"  {name}: {count} places, {share} in a batch\n" for name, (share, count) in data.shares.items())


def _prepare_model(model: VPRPreTrainedModel, options: TrainingOptions) -> None:
    """Set up which parameters are trained, and how the model is computed."""
    freeze(model, options.frozen)
    gather_for_cross_image_encoder(model)
    apply_policy(model, options.batch_norm)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    if options.compile:
        model.compile()


class _DeferredStop:
    """Defer SIGINT and SIGTERM until the current step is finished and saved, while this context is open.

    A second signal ends the process at once; see [`SignalHandler`].
    """

    def __init__(self) -> None:
        self._handler = SignalHandler(self._announce)

    def __enter__(self) -> None:
        self._handler.__enter__()

    def __exit__(self, *error: object) -> None:
        self._handler.__exit__(*error)

    def agreed_signal(self, accelerator: Accelerator, *, exchange: bool) -> int | None:
        """Return the signal that any process received, or `None`. Several processes agree only in a call with `exchange`."""
        if accelerator.num_processes == 1:
            return self._handler.received
        if not exchange:
            return None
        received = torch.tensor([self._handler.received or 0], device=accelerator.device)
        return int(accelerator.gather(received).max()) or None

    def _announce(self, number: int) -> None:
        logger.info("%s: the run saves a checkpoint and ends. A second signal ends it at once.", signal_name(number))
