# Copyright 2026 The D2-VPR for Hugging Face authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The table of the student's aggregators: the value of a configuration's `aggregator`, and its class.

A new aggregator is a subclass of [`Aggregator`] in a file of its own and a row here; fields that shape it are added to
[`D2VPRConfig`].
"""

from .aggregation import Aggregator
from .deformable_aggregation import DeformableAggregator

AGGREGATORS: dict[str, type[Aggregator]] = {"deformable": DeformableAggregator}

__all__ = ["AGGREGATORS"]
