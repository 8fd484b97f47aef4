"""What should become of each file of `odd-images`, from what can be seen of it.

Each was opened in a viewer that shows whatever decodes, and the header of those that show nothing was read byte by
byte. Intact pictures are `ok`, or have a note about damage elsewhere in the file; gray or black areas, noise and
shifted blocks are damaged pixels. The hexadecimal names are of a fuzzer's files.
"""

from __future__ import annotations

_OUTCOMES = """
bomb/pillow__decompression_bomb.gif                  too-large
bomb/pillow__decompression_bomb_extents.gif          note: first-frame
cmyk/jpegdec__jpg-cmyk-1.jpg                         ok
control_ok/pillow__hopper.jpg                        ok
control_ok/pillow__pil_sample_rgb.jpg                ok
corrupt/jpegdec__dc-predictor-overflow.jpg           damaged-pixels
corrupt/jpegdec__empty.jpg                           empty
corrupt/jpegdec__invalid-dimensions.jpg              damaged-pixels
corrupt/jpegdec__max_size.jpg                        too-large
corrupt/jpegdec__missing-sof.jpg                     truncated
corrupt/jpegdec__multiple-0xff-before-eoi.jpg        ok
corrupt/jpegdec__subtract-with-overflow.jpg          damaged-pixels
corrupt/pillow__broken_data_stream.png               damaged-pixels
derived/animated_gif_named.jpg                       note: first-frame
derived/food101_trunc50pct.jpg                       truncated
derived/food101_trunc99pct.jpg                       truncated
derived/html_named.jpg                               not-an-image
exif_rotated/recurser__Landscape_0.jpg               ok
gif/libvips__cogs.gif                                note: first-frame
gif/libvips__invalid_multiframe.gif                  note: first-frame
gif/pillow__dispose_bgnd.gif                         note: first-frame
gif/pillow__hopper.webp                              ok
gif/pillow__iss634.webp                              note: first-frame
jpeg_lossless/jpegdec__jpeg_lossless_sel2.jpg        unsupported
jpeg_lossless/jpegdec__jpeg_lossless_sel4.jpg        unsupported
jpeg_lossless/jpegdec__jpeg_lossless_sel6.jpg        unsupported
png16/imagers__basi0g16.png                          ok
png16/imagers__basn6a16.png                          ok
png16/pillow__mode_16bit.png                         note: first-frame
truncated/libvips__truncated.gif                     truncated
truncated/pillow__truncated_app14.jpg                note: stray-bytes
truncated/pillow__truncated_exif_dpi.jpg             note: bad-metadata
truncated/pillow__truncated_jpeg.jpg                 truncated
weird_but_maybe_ok/pillow__app13-multiple.jpg        ok
weird_but_maybe_ok/pillow__flower2.jpg               ok
weird_but_maybe_ok/pillow__hopper_16bit_qtables.jpg  ok
weird_but_maybe_ok/pillow__iptc_roundUp.jpg          ok
weird_but_maybe_ok/pillow__junk_jpeg_header.jpg      note: stray-bytes
weird_but_maybe_ok/pillow__sugarshack.mpo            ok
weird_but_maybe_ok/pillow__sugarshack_no_data.mpo    ok
weird_exif/pillow__empty_gps_ifd.jpg                 ok
weird_exif/pillow__exif-72dpi-int.jpg                ok
weird_exif/pillow__exif-ifd-offset.jpg               ok
weird_exif/pillow__exif_gps_typeerror.jpg            ok
weird_exif/pillow__hopper_bad_exif.jpg               damaged-pixels
weird_exif/pillow__invalid-exif.jpg                  note: bad-metadata
weird_exif/pillow__no-dpi-in-exif.jpg                ok
"""
_DAMAGED = """
138d3b9e0d9fbf641b8135981e597c3a 21a84b8472f6d18f5bb5c0026e97cfaa 28c74d9284d9836017fd519f6932efd8
3ea649db8e81a46ca4f92fb3238f78ff 46e5ac4a62d7a445a7c1fb704fafe05c 5482a54657765056f1a94116a8dbffe7
59d3b529c78ac722127c41ba75b3355b 6de166ee2a3a60df9017650e2a808408 786b67badc535fc95a4a76c29a0e0146
7dbf474f80e466e9e25ee46b84166420 8e5e74dbf9b68a322fbb9512db837329 a17806f32b45d63eea5230e7893e1f15
acce3629083f0e348e94fb58f952d3de b5369bcbddca7135a5708c5237ad64e4 c1ca5583e4bfadc73e7fe9418b6e6bf4
c8bc97335529d069a753c67475b8c82c ce380515a534e8226209daae00e7b4e8 d3b044a94486cae0224c002800ddd642
e6d9eca2c7405e13cfb850b7d0ef7476 ef724193653930f52acffa90e6426fd2 f6419b06a39ff09604343848658b1a41
fd44dc63fa7bdd12ee34fc602231ef02
"""


def odd_files() -> dict[str, str]:
    """The expected outcome of each file, by its path below `odd-images`."""
    expected = {
        name: rest.strip() for name, _, rest in (line.strip().partition(" ") for line in _OUTCOMES.split("\n")) if name
    }
    for prefix, orientations in (
        ("libvips__", "1 3 5 7"),
        ("pillow__hopper_orientation_", "2 4 6 8"),
        ("recurser__Landscape_", "2 4 6 8"),
        ("recurser__Portrait_", "1 3 5 7"),
    ):
        expected |= {f"exif_rotated/{prefix}{orientation}.jpg": "ok" for orientation in orientations.split()}
    # A knife and a printer are whole. The rest: wrong sampling factors, tables out of range, markers turned into other
    # bytes, data that ends in the middle. One is also a strip of five rows, which its header says before anything else.
    whole = ("3976a754ef0aca80e84e2c403d714579", "865db3dd2d380626f16b6f9dc6d62dba")
    fuzzed = dict.fromkeys(whole, "ok") | dict.fromkeys(_DAMAGED.split(), "damaged-pixels")
    fuzzed["5c67195f6993c9f8d0d32d4ffe0d8e62"] = "too-small"
    return expected | {f"corrupt_imagetestsuite/jpegdec__{name}.jpg": found for name, found in fuzzed.items()}
