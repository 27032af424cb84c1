"""The ROS 2 node on recorded messages, with a stand-in for the parts of rclpy that it uses."""

import importlib.util
import io
import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from d2vpr_hf.encoders.place_encoder import PlaceEncoder
from d2vpr_hf.index import PlaceIndex
from d2vpr_hf.places import Place
from d2vpr_hf.retrieval.compatibility import index_settings

EXAMPLE = Path(__file__).parents[2] / "examples" / "ros2_localizer.py"


class Node:
    """A node that keeps subscriptions by topic and published messages by topic."""

    parameters: dict = {}

    def __init__(self, name):
        self.name = name
        self.subscriptions, self.published = {}, {}

    def declare_parameter(self, name, default):
        return SimpleNamespace(value=self.parameters.get(name, default))

    def create_publisher(self, kind, topic, depth):
        self.published[topic] = []
        return SimpleNamespace(publish=self.published[topic].append)

    def create_subscription(self, kind, topic, callback, depth):
        self.subscriptions[topic] = callback

    def get_logger(self):
        return SimpleNamespace(warning=lambda text: self.published.setdefault("log", []).append(text))


def pose_message():
    position = SimpleNamespace(x=0.0, y=0.0, z=0.0)
    pose = SimpleNamespace(pose=SimpleNamespace(position=position), covariance=[0.0] * 36)
    return SimpleNamespace(header=SimpleNamespace(stamp=None, frame_id=""), pose=pose)


@pytest.fixture
def example(monkeypatch):
    """The example, imported with the stand-ins."""
    modules = {
        "rclpy": {},
        "rclpy.node": {"Node": Node},
        "geometry_msgs.msg": {"PoseWithCovarianceStamped": pose_message},
        "nav_msgs.msg": {"Odometry": SimpleNamespace},
        "sensor_msgs.msg": {"CompressedImage": SimpleNamespace},
        "std_msgs.msg": {"String": SimpleNamespace},
    }
    for name, contents in modules.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("ros2_localizer", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).resize((56, 56), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


def recorded_messages(pictures):
    """Yield the topics and messages of a drive along x, 5 m and a second a frame; the third image is damaged."""
    for number, picture in enumerate(pictures):
        turned = SimpleNamespace(x=0.0, y=0.0, z=math.sin(0.05 * number), w=math.cos(0.05 * number))
        pose = SimpleNamespace(position=SimpleNamespace(x=5.0 * number, y=0.0, z=0.0), orientation=turned)
        yield "/odom", SimpleNamespace(pose=SimpleNamespace(pose=pose))
        stamp = SimpleNamespace(sec=100 + number, nanosec=0)
        data = b"damaged" if number == 2 else picture
        yield "/camera/image/compressed", SimpleNamespace(header=SimpleNamespace(stamp=stamp), data=data)


def test_the_node_publishes_poses_answers_and_skipped_images(example, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    pictures = [jpeg(rng.integers(0, 255, (7, 7, 3)).astype(np.uint8)) for _ in range(6)]
    encoder = PlaceEncoder("embedded", device="cpu")
    places = [Place(f"{number}", x=5.0 * number, y=3.0, frame="hall") for number in range(6)]
    with PlaceIndex.create(tmp_path / "map", index_settings(encoder)) as index:
        index.add(encoder.encode(pictures).descriptors, places)
    monkeypatch.setattr(Node, "parameters", {"index": str(tmp_path / "map")})
    node = example.LocalizerNode()
    for topic, message in recorded_messages(pictures):
        node.subscriptions[topic](message)
    answers = [json.loads(message.data) for message in node.published["~/answer"]]
    assert len(answers) == 5 and [answer["seconds"] for answer in answers] == [100, 101, 103, 104, 105]
    assert all("not calibrated" in answer["note"] for answer in answers)
    assert len(node.published["log"]) == 1 and "skipped" in node.published["log"][0]
    poses = node.published["~/pose"]
    assert [pose.header.frame_id for pose in poses] == ["map"] * 5
    assert poses[0].pose.pose.position.x == pytest.approx(0.0, abs=15) and poses[-1].pose.pose.position.y == pytest.approx(3.0)
    assert node._movement() == (0.0, 0.0)
    node.pose = (28.0, 4.0, 0.5 + math.pi / 2)
    metres, turn = node._movement()
    assert metres == pytest.approx(5.0) and turn == pytest.approx(-90.0)


def test_loops_have_the_odometry_over_skipped_images(example, tmp_path, monkeypatch):
    """The third image is damaged: the fourth one is 10 m from the second one, the last that the detector has."""
    rng = np.random.default_rng(0)
    pictures = [jpeg(rng.integers(0, 255, (7, 7, 3)).astype(np.uint8)) for _ in range(4)]
    encoder = PlaceEncoder("embedded", device="cpu")
    with PlaceIndex.create(tmp_path / "map", index_settings(encoder)) as index:
        index.add(encoder.encode(pictures).descriptors, [Place(f"{number}", x=5.0 * number, y=3.0) for number in range(4)])
    monkeypatch.setattr(Node, "parameters", {"index": str(tmp_path / "map")})
    node, steps = example.LocalizerNode(), []
    node.detector = SimpleNamespace(add=lambda descriptor, pose, seconds, **step: steps.append((seconds, step["metres"])))
    for topic, message in recorded_messages(pictures):
        node.subscriptions[topic](message)
    assert steps == [(100.0, None), (101.0, pytest.approx(5.0)), (103.0, pytest.approx(10.0))]
