"""Stage 2 of D²-VPR (arXiv 2511.12528): a model learns descriptors that are similar for photos of the same place only.

It trains any model of this package, also teachers from scratch. On a laptop, offline:
    accelerate launch training/finetune.py teacher_gridtown_tiny --out runs/teacher
    accelerate launch training/finetune.py finetune_gridtown_tiny --model runs/student/best --out runs/tuned
As published, on one GPU, from the model of stage 1:
    accelerate launch training/finetune.py finetune_gsv_cities --photos GSV --model runs/stage1/best --out runs/stage2
On 4 nodes of 8 GPUs, which share each batch:
    accelerate launch --config_file training/configs/accelerate/4x8_gpus.yaml training/finetune.py finetune_gsv_cities ...
Flags override any option of the YAML file. `-m d2vpr_hf.training.finetune` runs the script of the installed package.
"""

from pathlib import Path

import torch

from d2vpr_hf.training.command_line import run_script
from d2vpr_hf.training.data.batches import PlaceBatch
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.distributed import gather_with_gradients
from d2vpr_hf.training.model_setup import MicroBatchedDescriptors, choose_cross_image_encoder, load_or_make
from d2vpr_hf.training.objectives.head import metric_of_prefixes, train_projection
from d2vpr_hf.training.objectives.metric_loss import MetricLoss
from d2vpr_hf.training.options import FinetuneOptions
from d2vpr_hf.training.training_run import TrainingRun, start_accelerator


def finetune(options: FinetuneOptions) -> Path:
    """Train a model; return the folder of the best model.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: If something that the options name is missing or does not fit.
        FloatingPointError: If the loss is not finite.
        OSError: If a checkpoint or a model cannot be written.
        RunStoppedError: If the process received SIGINT or SIGTERM, after saving a checkpoint.
    """
    accelerator = start_accelerator(options)
    data = TrainingData(options, accelerator)
    data.check_negatives()
    model = choose_cross_image_encoder(
        load_or_make(options.model, options.seed, options.vit, allows_projection=True),
        options.cross_image_encoder,
        options.seed,
    )
    train_projection(model)
    network = MicroBatchedDescriptors(model, options.gradient_accumulation_steps)
    loss_of = MetricLoss(options.ms_alpha, options.ms_beta, options.ms_base, options.miner_epsilon)
    run = TrainingRun(options, accelerator, model, network, data)

    def joint_loss(batch: PlaceBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Compute the loss over the descriptors of all processes; each process computes the same value."""
        descriptors = gather_with_gradients(run.network(run.pixel_values(batch)).float())
        place_ids = gather_with_gradients(batch.place_ids.to(descriptors.device))
        return metric_of_prefixes(loss_of, descriptors, place_ids, model.config.matryoshka_dims or ())

    run.begin(held_out_loss=lambda batch: joint_loss(batch)[0])
    for batch in run.batches():
        loss, numbers = joint_loss(batch)
        run.backward(loss, numbers)
        run.update(batch)
    return run.finish()


def main() -> None:
    """Run this stage from the command line."""
    run_script(FinetuneOptions, finetune)


if __name__ == "__main__":
    main()
