"""The messages of the protocol, beside Triton's own."""

from __future__ import annotations

from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from eyestate.server.openinference.messages import METHODS, POOL, SERVICE, message

TRITON: Any = service_pb2
NAMES = sorted({name for request, answer, _ in METHODS.values() for name in (request, answer)})


def fields(descriptor: Any) -> dict[str, tuple[Any, ...]]:
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type and fields(field.message_type),
            field.containing_oneof and field.containing_oneof.name,
        )
        for field in descriptor.fields
    }


@pytest.mark.parametrize("name", NAMES)
def test_the_fields_are_tritons(name: str) -> None:
    ours = fields(message(name).DESCRIPTOR)
    theirs = fields(TRITON.DESCRIPTOR.message_types_by_name[name])
    assert {field: theirs[field] for field in ours} == ours


def test_the_methods_are_tritons() -> None:
    theirs = TRITON.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for method in POOL.FindServiceByName(SERVICE).methods:
        other = theirs[method.name]
        assert (method.input_type.full_name, method.output_type.full_name) == (
            other.input_type.full_name,
            other.output_type.full_name,
        )
        assert (method.client_streaming, method.server_streaming) == (other.client_streaming, other.server_streaming)


def test_a_message_of_either_is_read_by_the_other() -> None:
    asked = TRITON.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"\0\1"])
    asked.inputs.add(name="crops", datatype="UINT8", shape=[1, 1, 2]).parameters["k"].string_param = "v"
    read = message("ModelInferRequest").FromString(asked.SerializeToString())
    assert TRITON.ModelInferRequest.FromString(read.SerializeToString()) == asked
