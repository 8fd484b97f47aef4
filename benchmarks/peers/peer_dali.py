"""NVIDIA DALI on the CPU: its webdataset reader on our tars, decoded by its threads; nothing of it needs a GPU."""

# /// script
# dependencies = ["nvidia-dali-cuda130==2.4.0"]
# ///

from __future__ import annotations

from importlib.metadata import version

from common import Job, parse_job, report, tars
from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator

_SOURCE = "https://docs.nvidia.com/deeplearning/dali/user-guide/docs/examples/general/data_loading/dataloading_webdataset.html"

_NPY_HEADER = 128
"""Bytes before the pixels of a `.npy`, for which DALI has a reader of files only."""


@pipeline_def  # type: ignore[untyped-decorator]
def pictures(job: Job) -> tuple[object, object]:
    """Images and labels; shuffled in a buffer of 1,000, as webdataset's are here."""
    extension = "npy" if job.encoding == "raw" else "jpg"
    image, label = fn.readers.webdataset(
        name="reader",
        paths=tars(job),
        ext=[extension, "cls"],
        random_shuffle=True,
        initial_fill=1000,
        prefetch_queue_depth=2,
    )
    if job.encoding == "raw":
        image = fn.reinterpret(image[_NPY_HEADER:], shape=[192, 192, 3], dtype=types.UINT8)
    else:
        image = fn.decoders.image(image, device="cpu", output_type=types.RGB)
    return image, fn.pad(label, fill_value=0, shape=[4])  # digits, not all of the same number


def main(job: Job) -> None:
    """Its iterator for torch, which hands out batches of tensors."""
    pipeline = pictures(job, batch_size=job.batch_size, num_threads=job.workers, device_id=None)
    loader = DALIGenericIterator(
        pipeline,
        ["image", "label"],
        reader_name="reader",
        last_batch_policy=LastBatchPolicy.PARTIAL,
        auto_reset=True,
    )
    how = f"readers.webdataset, {job.workers} threads, CPU"
    dali = version("nvidia-dali-cuda130")
    report("DALI", dali, how, _SOURCE, job, lambda: sum(len(batch[0]["image"]) for batch in loader))


if __name__ == "__main__":
    main(parse_job())
