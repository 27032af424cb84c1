"""Write tiny data sets in the forms of public scripts. Photos are empty files: readers do not open them."""

import csv

import numpy as np
import utm


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def write_csv(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def object_array(values, columns=None):
    """An array of objects (N,), or (N, columns), that holds lists."""
    array = np.empty(len(values) if columns is None else (len(values), columns), dtype=object)
    for row, value in enumerate(values):
        array[row] = value
    return array


def save_objects(path, values, columns=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, object_array(values, columns), allow_pickle=True)


def at_name(latitude, longitude, pano="", heading="", note=""):
    east, north, zone, letter = utm.from_latlon(latitude, longitude)
    return f"@{east:.2f}@{north:.2f}@{zone}@{letter}@{latitude:.5f}@{longitude:.5f}@{pano}@@{heading}@@@@@{note}@.jpg"


def write_msls_city(city, photos, side, *, zone=None, subtask=None, post=True):
    """Write a side of a city.

    Args:
        photos: Key, latitude, longitude, `ca`, whether it is a panorama, whether at night, view direction.
        zone: UTM zone of easting and northing; `None` for the photos' own.
        subtask: Whether each photo is in the subtask `all`; `None` for all photos.
    """
    folder = city / side
    raw, processed = [], []
    subtasks = []
    for number, (key, latitude, longitude, angle, is_panorama, is_night, view) in enumerate(photos):
        touch(folder / "images" / f"{key}.jpg")
        east, north, _, _ = utm.from_latlon(latitude, longitude, force_zone_number=zone)
        raw.append([number, key, longitude, latitude, angle, "2018-04-01", is_panorama])
        processed.append([number, key, east, north, "u0", True, is_night, view])
        subtasks.append([number, True if subtask is None else subtask[number], False])
    write_csv(folder / "raw.csv", ["", "key", "lon", "lat", "ca", "captured_at", "pano"], raw)
    write_csv(folder / "subtask_index.csv", ["", "all", "s2w"], subtasks)
    if post:
        header = ["", "key", "easting", "northing", "unique_cluster", "control_panel", "night", "view_direction"]
        write_csv(folder / "postprocessed.csv", header, processed)
    return folder
