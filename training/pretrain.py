"""Stage 0, for models from scratch: a ViT learns to see Gridtown's streets, by the renderer's labels.

The paper's models start from DINOv2, which was trained on 142 million photos. This stage replaces it where DINOv2 cannot be
used, as in experiments on simulated photos: each patch predicts its surface, depth, normal and building, and the class token
predicts the buildings in sight. The modules after the ViT keep their random weights.

    d2vpr simulate towns --places 250 --seed 201 --cities 10 --layout gsv-cities --tier all --image-size 112 --label-cells 8
    accelerate launch training/pretrain.py pretrain_gridtown_small --photos towns --model training/configs/student_small.json \
        --out runs/foundation
"""

from pathlib import Path

from d2vpr_hf.training.command_line import run_script
from d2vpr_hf.training.data.training_data import TrainingData
from d2vpr_hf.training.model_setup import load_or_make
from d2vpr_hf.training.objectives.label_loss import LabelLoss
from d2vpr_hf.training.options import PretrainOptions
from d2vpr_hf.training.training_run import TrainingRun, start_accelerator


def pretrain(options: PretrainOptions) -> Path:
    """Train a model's ViT; return the folder of the best model.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: If something that the options name is missing or does not fit.
        FloatingPointError: If the loss is not finite.
        OSError: If a checkpoint or a model cannot be written.
        RunStoppedError: If the process received SIGINT or SIGTERM, after saving a checkpoint.
    """
    accelerator = start_accelerator(options)
    data = TrainingData(options, accelerator)
    model = load_or_make(options.model, options.seed, options.vit)
    network = LabelLoss(model, data.buildings(), options.building_size, options.seed)
    run = TrainingRun(options, accelerator, model, network, data)
    run.begin(held_out_loss=lambda batch: run.network(run.pixel_values(batch), run.labels(batch))[0])
    for batch in run.batches():
        loss, terms = run.network(run.pixel_values(batch), run.labels(batch))
        run.backward(loss, terms)
        run.update(batch)
    return run.finish()


def main() -> None:
    """Run this stage from the command line."""
    run_script(PretrainOptions, pretrain)


if __name__ == "__main__":
    main()
