"""Positions, headings and times in photos and next to them: EXIF, XMP, and the sidecar files of programs."""
