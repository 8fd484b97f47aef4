"""The pictures of the source `demo:`: scene.py has camera, light and table, drawings.py the food of each class."""

from food101_fast.prepare.demo.drawings import CLASSES, VERSION, corrupt_files, draw

__all__ = ["CLASSES", "VERSION", "corrupt_files", "draw"]
