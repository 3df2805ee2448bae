"""Every image file a hospital may hold, and what becomes of its pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sites import images
from sites.errors import ImageUnreadable
from sites.images import (
    content_hash,
    perceptual_fingerprint,
    read_image,
    shades_of_grey,
    to_square,
)

RED, BLUE = (200, 30, 40), (10, 20, 220)


def two_halves(width: int = 40, height: int = 24) -> Image.Image:
    """Return an image that is red on its left and blue on its right."""
    picture = Image.new("RGB", (width, height), RED)
    picture.paste(BLUE, (width // 2, 0, width, height))
    return picture


@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.bmp"])
def test_lossless_formats_give_the_very_pixels(tmp_path: Path, name: str) -> None:
    two_halves().save(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name), np.asarray(two_halves()))


def test_jpeg_is_close_to_what_was_saved(tmp_path: Path) -> None:
    two_halves().save(tmp_path / "a.jpg", quality=95, subsampling=0)
    pixels = read_image(tmp_path / "a.jpg")
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.asarray(two_halves()).astype(int)).max() < 12


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    """Orientation 6 says: turn by 90 degrees clockwise, so that the left column becomes the top row."""
    exif = Image.Exif()
    exif[0x0112] = 6
    two_halves().save(tmp_path / "a.jpg", quality=95, exif=exif)
    pixels = read_image(tmp_path / "a.jpg")
    assert pixels.shape == (40, 24, 3)
    assert pixels[5, 12, 0] > 150 > 100 > pixels[35, 12, 0]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    two_halves().convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    pixels = read_image(tmp_path / "a.jpg").astype(int)
    np.testing.assert_allclose(pixels[12, 8], RED, atol=12)
    np.testing.assert_allclose(pixels[12, 32], BLUE, atol=12)


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
def test_sixteen_bits_are_scaled_by_depth_and_not_clipped(tmp_path: Path, name: str) -> None:
    levels = np.array([[0, 257, 25_700, 65_535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name)[0, :, 0], [0, 1, 100, 255])


def test_transparent_pixels_are_laid_on_white(tmp_path: Path) -> None:
    picture = two_halves().convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 20, 24))
    picture.save(tmp_path / "a.png")
    pixels = read_image(tmp_path / "a.png")
    assert pixels[12, 5].tolist() == [255, 255, 255]
    assert pixels[12, 35].tolist() == list(BLUE)


def test_palette_grey_and_one_bit_become_rgb(tmp_path: Path) -> None:
    two_halves().quantize(2).save(tmp_path / "palette.png")
    np.testing.assert_allclose(read_image(tmp_path / "palette.png")[12, 5].astype(int), RED, atol=3)
    Image.new("L", (8, 8), 77).save(tmp_path / "grey.png")
    assert (read_image(tmp_path / "grey.png") == 77).all()
    Image.new("1", (8, 8), 1).save(tmp_path / "bit.png")
    assert (read_image(tmp_path / "bit.png") == 255).all()


def test_first_page_of_a_multi_page_tiff_counts(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    assert (read_image(tmp_path / "a.tiff") == RED).all()


def test_multi_picture_jpeg_of_a_camera_gives_its_first_picture(tmp_path: Path) -> None:
    preview = Image.new("RGB", (8, 8), BLUE)
    Image.new("RGB", (16, 16), RED).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[preview])
    assert read_image(tmp_path / "a.jpg").shape == (16, 16, 3)


def encoded(picture: Image.Image, kind: str) -> bytes:
    """Return a file's bytes."""
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
BAD_FILES = {
    "empty": (b"", "0 bytes"),
    "text": (b"image_id,diagnosis\n1,nv\n", "not an image"),
    "gif": (encoded(two_halves(), "GIF"), "GIF images are not supported"),
    "header only": (encoded(NOISE, "JPEG")[:30], "not an image|truncated or damaged"),
    **{f"half a {k}": (encoded(NOISE, k)[:5000], "truncated or damaged") for k in ("PNG", "TIFF", "BMP")},
    "half a JPEG": (encoded(NOISE, "JPEG")[:1500], "truncated or damaged"),
    "32-bit": (encoded(Image.new("F", (4, 4)), "TIFF"), "32-bit grey images are not supported"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_one_sentence_that_names_it(tmp_path: Path, name: str) -> None:
    content, expected = BAD_FILES[name]
    path = tmp_path / "lesion.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageUnreadable, match=expected) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageUnreadable, match=r"no\.jpg: no such file"):
        read_image(tmp_path / "no.jpg")
    with pytest.raises(ImageUnreadable, match="not a file"):
        read_image(tmp_path)


def test_huge_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """One bit a pixel packs 81 megapixels into few bytes: they would become 243 MB in memory."""
    side = int(np.sqrt(images.MAX_PIXELS)) + 100
    Image.new("1", (side, side)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(ImageUnreadable, match="more than 80 megapixels"):
        read_image(tmp_path / "bomb.png")


def test_pillows_own_bomb_check_is_one_sentence_too(tmp_path: Path) -> None:
    Image.new("1", (14_000, 14_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageUnreadable, match="more than 80 megapixels"):
        read_image(tmp_path / "bomb.png")


def test_content_hash_follows_pixels_and_shape_not_the_file(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "a.png")
    NOISE.save(tmp_path / "a.bmp")
    first, second = read_image(tmp_path / "a.png"), read_image(tmp_path / "a.bmp")
    assert content_hash(first) == content_hash(second)
    changed = first.copy()
    changed[3, 4, 1] ^= 1
    assert content_hash(changed) != content_hash(first)
    assert content_hash(first.reshape(32, 128, 3)) != content_hash(first)


def test_perceptual_fingerprint_averages_cells_of_the_frame() -> None:
    """Cells of 2 by 3 pixels: grey 10 above and 30 below average to 20; size does not matter."""
    grey = np.tile(np.array([[10], [30]], dtype=np.uint8), (64, 192))
    fingerprint = perceptual_fingerprint(np.repeat(grey[:, :, None], 3, axis=2))
    assert fingerprint.shape == (64, 64)
    assert (fingerprint == 20).all()


def test_shades_of_grey_undoes_a_coloured_light() -> None:
    """Under a light of gains g, the corrected channels of a grey scene are equal again."""
    grey = np.random.default_rng(1).integers(20, 200, (30, 40, 1))
    tinted = np.rint(grey * np.array([1.0, 0.8, 0.6])).astype(np.uint8)
    corrected = shades_of_grey(tinted).astype(int)
    assert np.ptp(corrected, axis=2).max() <= 2
    assert np.ptp(tinted.astype(int), axis=2).max() > 50


def test_shades_of_grey_is_the_published_formula_at_p_six() -> None:
    pixels = np.random.default_rng(2).integers(0, 180, (9, 7, 3), dtype=np.uint8)
    light = (pixels.astype(float) ** 6).mean(axis=(0, 1)) ** (1 / 6)
    light /= np.linalg.norm(light)
    expected = np.clip(np.rint(pixels / (light * np.sqrt(3))), 0, 255)
    np.testing.assert_array_equal(shades_of_grey(pixels), expected.astype(np.uint8))


def test_shades_of_grey_leaves_black_and_neutral_images_alone() -> None:
    for pixels in (np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 90, np.uint8)):
        np.testing.assert_array_equal(shades_of_grey(pixels), pixels)


def test_center_takes_the_middle_square_and_squash_the_whole_frame() -> None:
    """A frame 3:1 in red, white and blue: its central square is all white, its whole a third of each."""
    frame = np.zeros((50, 150, 3), np.uint8)
    frame[:, :50], frame[:, 50:100], frame[:, 100:] = RED, 255, BLUE
    assert (to_square(frame, 32, "center")[:, 2:-2] == 255).all()
    squashed = to_square(frame, 30, "squash")
    assert squashed.shape == (30, 30, 3)
    assert squashed[15, [4, 15, 26]].tolist() == [list(RED), [255, 255, 255], list(BLUE)]


def test_reduction_is_antialiased() -> None:
    """A one-pixel chequerboard must become even grey, not stripes of aliasing."""
    board = np.indices((300, 300)).sum(axis=0) % 2 * 255
    small = to_square(np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8), 37, "center")
    assert np.abs(small.astype(int) - 127).max() <= 4
