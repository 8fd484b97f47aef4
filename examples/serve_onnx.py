"""Classify one image with an exported ONNX model: onnxruntime, NumPy and simplejpeg or Pillow, no torch.

python -m food101_fast.export --run runs/baseline --onnx
python examples/serve_onnx.py runs/baseline/export photo.jpg
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
import simplejpeg
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps


def to_rgb(picture: Image.Image) -> Image.Image:
    """8-bit RGB as the training images were: 16 bits scaled, alpha over white."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) * np.float32(255 / 65535)).round().astype(np.uint8))
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return picture.convert("RGB")


def decode(path: Path, stored_size: int) -> NDArray[np.uint8]:
    """Upright RGB pixels, uint8 (H, W, 3). A JPEG is decoded at a reduced scale, as the training images were."""
    content = path.read_bytes()
    opened = Image.open(path)
    if not simplejpeg.is_jpeg(content) or opened.mode == "CMYK":  # a CMYK file may differ a little from `predict`
        return np.array(to_rgb(ImageOps.exif_transpose(opened)))
    pixels = Image.fromarray(simplejpeg.decode_jpeg(content, min_height=stored_size, min_width=stored_size))
    pixels.getexif()[ExifTags.Base.Orientation] = opened.getexif().get(ExifTags.Base.Orientation, 1)
    return np.array(ImageOps.exif_transpose(pixels))


def main() -> None:
    """Run the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("export", type=Path, help="folder that `food101_fast.export --onnx` wrote")
    parser.add_argument("image", type=Path)
    parser.add_argument("--top-k", type=int, default=5, help="how many classes to print")
    args = parser.parse_args()
    if not (args.export / "model.onnx").is_file():
        parser.error(f"{args.export} has no model.onnx; give the folder `export` in a run, written with --onnx")

    config = json.loads((args.export / "config.json").read_text())
    session = onnxruntime.InferenceSession(args.export / "model.onnx", providers=["CPUExecutionProvider"])
    pixels = decode(args.image, config["preprocessing"]["stored_size"])
    (probabilities,) = session.run(None, {"images": pixels.transpose(2, 0, 1)[None]})
    for index in np.argsort(-probabilities[0])[: args.top_k]:
        print(f"{probabilities[0, index]:.4f}  {config['id2label'][str(index)]}")


if __name__ == "__main__":
    main()
