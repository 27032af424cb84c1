"""Encoders: photos to descriptors. `protocol.py` has the interface, `place_encoder.py` the encoder of this package's models."""

from d2vpr_hf.encoders.protocol import EncodedPhotos, Encoder, Progress, ReceiveBatch, encode_queries

__all__ = ["EncodedPhotos", "Encoder", "Progress", "ReceiveBatch", "encode_queries"]
