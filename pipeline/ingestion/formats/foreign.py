"""Files that are not in a supported image format: what they are, and what to do."""

import re

from pipeline.ingestion.formats.broken import BrokenImageError
from pipeline.ingestion.formats.tiff import describe_tiff, is_tiff

SIGNATURES: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL | re.IGNORECASE), name)
    for pattern, name in (
        (rb".{4}ftyp(?!avi[fs])(?!.{4,64}avi[fs])(?:heic|heix|hevc|hevx|heim|heis|mif1|msf1)", "HEIC (iPhone): convert to JPEG or PNG"),
        (rb"\xff\x0a|\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a", "JPEG XL: convert to JPEG or PNG (djxl)"),
        (rb".{4}ftypcrx ", "camera raw (CR3): develop it to JPEG, PNG or TIFF"),
        (rb"II\*\x00.{4}CR|IIRO|IIU\x00|FUJIFILMCCD-RAW|\x00MRM", "camera raw: develop it to JPEG, PNG or TIFF"),
        (rb".{4}ftyp(?:isom|mp4|avc1|M4V|qt  |3gp)|\x1a\x45\xdf\xa3|RIFF.{4}AVI ", "a video: extract its frames (ffmpeg)"),
        (rb"version https://git-lfs\.github\.com", "a Git LFS pointer: the image was not fetched (git lfs pull)"),
        (rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|body)", "a web page: the download of this image failed"),
        (rb"\s*(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*|<!doctype svg[^>]*>\s*)*<svg", "SVG: draw it as PNG (rsvg-convert)"),
        (rb"%PDF", "PDF: extract its images (pdfimages)"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "PostScript: draw it as PNG (Ghostscript)"),
        (rb"8BPS", "Photoshop: export it as PNG or JPEG"),
        (rb"gimp xcf", "GIMP: export it as PNG or JPEG"),
        (rb"\x76\x2f\x31\x01", "OpenEXR: convert it to a TIFF of floats or to PNG"),
        (rb"#\?(?:RADIANCE|RGBE)", "Radiance HDR: convert it to a TIFF of floats or to PNG"),
        (rb"SIMPLE  =", "FITS: convert it to a TIFF of floats or to PNG"),
        (rb".{128}DICM", "DICOM: convert it to PNG of 16 bits (pydicom)"),
        (rb"\x89HDF|CDF[\x01\x02]", "HDF5 or netCDF: save its images as .npy (data/README.md)"),
        (rb"DDS ", "DirectDraw texture: convert it to PNG"),
        (rb"\x00\x00[\x01\x02]\x00", "an icon (ICO): convert it to PNG"),
        (rb"icns", "an icon (ICNS): convert it to PNG"),
        (rb"PK\x03\x04", "a zip archive within the data: unpack it"),
        (rb"\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!", "a compressed file within the data: unpack it"),
        (rb"\s*[\[{]", "JSON or other text, no image"),
    )
)  # fmt: skip
"""Beginning of a file, and its name with the remedy."""

PEEK = 1024


def name_of(content: bytes) -> str | None:
    """Return what a file is that no decoder reads, and what to do; None if it cannot be identified."""
    if is_tiff(content):
        return _tiff(content)
    begin = content[:PEEK]
    for pattern, name in SIGNATURES:
        if pattern.match(begin):
            return name
    if begin and not any(byte < 9 or 13 < byte < 32 for byte in begin):
        return "text, no image"
    return None


def _tiff(content: bytes) -> str:
    try:
        return f"{describe_tiff(content)}: convert it to grey or RGB of 8 bits, or to grey of 16 bits or floats"
    except BrokenImageError as error:
        return str(error)
