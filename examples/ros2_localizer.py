"""A ROS 2 node that localizes a robot in a map by its camera, frame by frame, and finds loops of its trajectory.

    python examples/ros2_localizer.py --ros-args -p index:=my-map -p image:=/camera/image/compressed -p odometry:=/odom

It subscribes to `sensor_msgs/CompressedImage` and, for distances and turns, to `nav_msgs/Odometry`. It publishes
`geometry_msgs/PoseWithCovarianceStamped` on `~/pose` for each frame with an answer, in the frame of the map (x and y of a local
map, or UTM east and north), and JSON in `std_msgs/String` on `~/answer` for each frame and on `~/loop` for each verified loop.
"""

import json
import math
from typing import Any

import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from d2vpr_hf import PlaceEncoder, PlaceIndex
from d2vpr_hf.localization import load_calibration
from d2vpr_hf.places import Place
from d2vpr_hf.sequences import LoopDetector, Motion, SequenceAnswer, SequenceLocalizer, SequenceSettings

RADII_OF_90 = math.sqrt(2 * math.log(10))  # standard deviations that contain 90 % of a normal distribution in the plane


def movement(
    first: tuple[float, float, float] | None, second: tuple[float, float, float] | None
) -> tuple[float | None, float | None]:
    """Return metres and turn (degrees, clockwise) between poses; `None` if one of them is not known."""
    if first is None or second is None:
        return None, None
    turn = math.degrees(first[2] - second[2])
    return math.dist(first[:2], second[:2]), (turn + 180) % 360 - 180


class LocalizerNode(Node):
    """Localizes each image in a map."""

    def __init__(self) -> None:
        super().__init__("d2vpr_localizer")
        index = PlaceIndex.open(self._parameter("index", ""))
        self.encoder = PlaceEncoder.for_index(index)
        calibration = load_calibration(index, self.encoder)
        settings = SequenceSettings(Motion(max_speed=self._parameter("max_speed", 5.0)))
        self.localizer = SequenceLocalizer(index, calibration, settings)
        self.detector = None
        if calibration is not None:
            seconds = self._parameter("exclude_last_seconds", 30.0)
            self.detector = LoopDetector(exclude_last_seconds=seconds, calibration=calibration, settings=settings)
        self.map_frame = self._parameter("map_frame", "map")
        self.pose: tuple[float, float, float] | None = None  # x, y and yaw (radians) of the latest odometry
        self.last_pose: tuple[float, float, float] | None = None  # that of the last image
        self.last_loop_pose: tuple[float, float, float] | None = None  # that of the last image that was not skipped
        self.poses = self.create_publisher(PoseWithCovarianceStamped, "~/pose", 10)
        self.answers = self.create_publisher(String, "~/answer", 10)
        self.loops = self.create_publisher(String, "~/loop", 10)
        self.create_subscription(Odometry, self._parameter("odometry", "/odom"), self.on_odometry, 50)
        self.create_subscription(CompressedImage, self._parameter("image", "/camera/image/compressed"), self.on_image, 1)

    def _parameter(self, name: str, default: Any) -> Any:
        return self.declare_parameter(name, default).value

    def on_odometry(self, message: Odometry) -> None:
        """Keep the latest pose."""
        position, rotation = message.pose.pose.position, message.pose.pose.orientation
        yaw = math.atan2(2 * (rotation.w * rotation.z + rotation.x * rotation.y), 1 - 2 * (rotation.y**2 + rotation.z**2))
        self.pose = position.x, position.y, yaw

    def on_image(self, message: CompressedImage) -> None:
        """Localize an image and publish the answer."""
        seconds = message.header.stamp.sec + 1e-9 * message.header.stamp.nanosec
        metres, turn = self._movement()
        encoded = self.encoder.encode([bytes(message.data)])
        if encoded.skipped:
            self.localizer.skip(encoded.skipped[0], seconds, metres=metres, turn=turn)
            self.get_logger().warning(f"An image was skipped: {encoded.skipped[0]}")
            return
        descriptor = encoded.descriptors[0]
        answer = self.localizer.add(descriptor, seconds, metres=metres, turn=turn)
        self.localizer.forget()  # the node never smooths
        self._publish(message.header, answer)
        if self.detector is not None and self.pose is not None:
            x, y, _ = self.pose
            metres, turn = movement(self.last_loop_pose, self.pose)  # over images that were skipped
            self.last_loop_pose = self.pose
            loop = self.detector.add(descriptor, Place("", x=x, y=y), seconds, metres=metres, turn=turn)
            if loop is not None and loop.verified:
                self.loops.publish(String(data=json.dumps(vars(loop))))

    def _movement(self) -> tuple[float | None, float | None]:
        """Return metres and turn (degrees, clockwise) since the last image; `None` without odometry."""
        last, self.last_pose = self.last_pose, self.pose
        return movement(last, self.pose)

    def _publish(self, header: Any, answer: SequenceAnswer) -> None:
        values = {name: value for name, value in answer.to_dict().items() if name != "matches"}
        self.answers.publish(String(data=json.dumps(values)))
        if answer.place is None:
            return
        message = PoseWithCovarianceStamped()
        message.header.stamp, message.header.frame_id = header.stamp, self.map_frame
        place = answer.place
        is_local = place.x is not None
        message.pose.pose.position.x = float((place.x if is_local else place.utm_east) or 0.0)
        message.pose.pose.position.y = float((place.y if is_local else place.utm_north) or 0.0)
        if answer.radius_90 is not None:
            variance = (answer.radius_90 / RADII_OF_90) ** 2
            message.pose.covariance[0] = message.pose.covariance[7] = variance
        self.poses.publish(message)


def main() -> None:
    """Run the node."""
    rclpy.init()
    node = LocalizerNode()
    try:
        rclpy.spin(node)
    finally:
        node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    main()
