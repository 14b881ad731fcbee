from __future__ import annotations

import base64
import io
import json
import time
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput, InferResult

from eyestate.arrays import Pixels
from eyestate.bundle import State, load_model
from eyestate.errors import (
    BodyTooLargeError,
    EyestateError,
    ImageTooLargeError,
    ImageTooSmallError,
    InferenceRequestError,
)
from eyestate.server.openinference.schema import InferenceRequest
from eyestate.server.openinference.tensors import JSON_LENGTH, MAX_JSON_BYTES, read, write
from eyestate.server.packed import MAX_CROPS, Encoded

RANDOM = np.random.default_rng(4)
GREY = RANDOM.integers(0, 256, (3, 20, 24), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (2, 24, 20, 3), dtype=np.uint8)


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


FILES = [png(crop) for crop in GREY]


def crops_tensor(crops: Pixels, **changes: Any) -> dict[str, Any]:
    tensor = {"name": "crops", "datatype": "UINT8", "shape": list(crops.shape), "data": crops.ravel().tolist()}
    return {key: value for key, value in (tensor | changes).items() if value is not None}


def images_tensor(files: list[bytes], **changes: Any) -> dict[str, Any]:
    data = [base64.b64encode(file).decode() for file in files]
    tensor = {"name": "images", "datatype": "BYTES", "shape": [len(files)], "data": data}
    return {key: value for key, value in (tensor | changes).items() if value is not None}


def as_json(*inputs: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"inputs": inputs, **fields}).encode()


def elements(files: list[bytes]) -> bytes:
    return b"".join(len(file).to_bytes(4, "little") + file for file in files)


def binary(size: int) -> dict[str, Any]:
    return {"data": None, "parameters": {"binary_data_size": size}}


def by_tritonclient(*tensors: tuple[str, np.ndarray[Any, Any]], binary_data: bool = True) -> tuple[bytes, str | None]:
    """The body that tritonclient sends, and its header with the length of the JSON."""
    inputs = []
    for name, values in tensors:
        tensor = InferInput(name, list(values.shape), "UINT8" if name == "crops" else "BYTES")
        inputs.append(tensor.set_data_from_numpy(values, binary_data=binary_data))
    body, length = InferenceServerClient.generate_request_body(inputs)
    return body, None if length is None else str(length)


def read_plain(
    body: bytes, json_length: int | str | None = None
) -> tuple[InferenceRequest, list[Pixels | list[Encoded]]]:
    return read(body, None if json_length is None else str(json_length))


class TestCrops:
    @pytest.mark.parametrize("crops", [GREY, RGB, GREY[:1]], ids=["grey", "rgb", "one"])
    @pytest.mark.parametrize("nested", [False, True])
    def test_in_json(self, crops: Pixels, nested: bool) -> None:
        data = crops.tolist() if nested else crops.ravel().tolist()
        _, (tensor,) = read_plain(as_json(crops_tensor(crops, data=data)))
        assert np.array_equal(np.asarray(tensor), crops)

    @pytest.mark.parametrize("crops", [GREY, RGB], ids=["grey", "rgb"])
    @pytest.mark.parametrize("binary_data", [False, True])
    def test_from_tritonclient(self, crops: Pixels, binary_data: bool) -> None:
        _, (tensor,) = read_plain(*by_tritonclient(("crops", crops), binary_data=binary_data))
        assert np.array_equal(np.asarray(tensor), crops)

    @pytest.mark.parametrize("crops", [GREY, RGB], ids=["grey", "rgb"])
    def test_binary_data_are_not_copied(self, crops: Pixels) -> None:
        body, length = by_tritonclient(("crops", crops))
        _, (tensor,) = read_plain(body, length)
        assert np.shares_memory(np.asarray(tensor), np.frombuffer(body, np.uint8))


class TestImages:
    def test_in_json_are_base64(self) -> None:
        _, (tensor,) = read_plain(as_json(images_tensor(FILES)))
        assert tensor == FILES

    @pytest.mark.parametrize("width", [4, 60, 64, 76])
    @pytest.mark.parametrize("end", ["\n", "\r\n", " ", "\t\n"])
    def test_in_json_may_have_line_breaks(self, width: int, end: str) -> None:
        texts = [base64.b64encode(file).decode() for file in FILES]
        broken = [end.join(text[at : at + width] for at in range(0, len(text), width)) + end for text in texts]
        _, (tensor,) = read_plain(as_json(images_tensor(FILES, data=broken)))
        assert tensor == FILES

    def test_from_tritonclient(self) -> None:
        _, (tensor,) = read_plain(*by_tritonclient(("images", np.array(FILES, np.object_))))
        assert tensor == FILES

    def test_from_tritonclient_in_json(self) -> None:
        texts = np.array([base64.b64encode(file) for file in FILES], np.object_)
        _, (tensor,) = read_plain(*by_tritonclient(("images", texts), binary_data=False))
        assert tensor == FILES


class TestTwoInputs:
    def test_are_answered_in_their_order_whichever_is_binary(self) -> None:
        files = elements(FILES)
        for tensors, part in [
            ((crops_tensor(RGB), images_tensor(FILES, **binary(len(files)))), files),
            ((crops_tensor(RGB, **binary(RGB.size)), images_tensor(FILES)), RGB.tobytes()),
            ((crops_tensor(RGB), images_tensor(FILES)), b""),
            (
                (crops_tensor(RGB, **binary(RGB.size)), images_tensor(FILES, **binary(len(files)))),
                RGB.tobytes() + files,
            ),
        ]:
            head = as_json(*tensors)
            _, (crops, images) = read_plain(head + part, len(head))
            assert np.array_equal(np.asarray(crops), RGB)
            assert images == FILES

    def test_twice_the_same_are_refused(self) -> None:
        with pytest.raises(InferenceRequestError, match="twice"):
            read_plain(as_json(crops_tensor(RGB), crops_tensor(GREY)))


class TestWhatIsAskedFor:
    def test_unknown_fields_and_parameters_are_passed_over(self) -> None:
        tensor = crops_tensor(GREY, parameters={"content_type": "np", "nested": {"x": [1]}}, extra=1)
        outputs = [{"name": "state", "parameters": {"classification": 3}, "extra": None}]
        parameters = {"priority": 3, "timeout": 1.5, "custom": "x"}
        asked, _ = read_plain(as_json(tensor, id="42", model_name="x", parameters=parameters, outputs=outputs))
        assert asked.id == "42"
        assert [output.name for output in asked.outputs] == ["state"]

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"outputs": [{"name": "logits"}]}, "outputs.0.name"),
            ({"outputs": [{"name": "score"}, {"name": "score"}]}, "'score' is there twice"),
            ({"outputs": [{"name": "score", "parameters": {"binary_data": "yes"}}]}, "binary_data"),
            ({"outputs": {}}, "outputs"),
            ({"parameters": {"binary_data_output": 1}}, "binary_data_output"),
            ({"parameters": []}, "parameters"),
            ({"id": 42}, "id"),
            ({"inputs": []}, "inputs"),
            ({"inputs": None}, "inputs"),
            ({"inputs": [{"name": "x" * 10_000}]}, "'crops', 'images'|x{100}"),
        ],
    )
    def test_what_is_not_the_protocol_is_refused_with_the_place(self, fields: dict[str, Any], reason: str) -> None:
        with pytest.raises(InferenceRequestError, match=reason) as refused:
            read_plain(json.dumps({"inputs": [crops_tensor(GREY)], **fields}).encode())
        assert len(refused.value.message) < 300


class TestRefused:
    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"datatype": "FP32"}, "UINT8"),
            ({"datatype": None}, "datatype"),
            ({"shape": [3, 20]}, "shape"),
            ({"shape": [3, 20, 24, 1]}, "must be 3"),
            ({"shape": [1, 3, 20, 24, 1]}, "shape"),
            ({"shape": [3, 20, 25]}, "1440 elements"),
            ({"shape": [3, -20, -24]}, "shape"),
            ({"shape": [3.0, 20, 24]}, "shape"),
            ({"shape": [10**30, 20, 24]}, "crops"),
            ({"shape": [0, 20, 24], "data": []}, "no crops"),
            ({"data": None}, "either data or binary_data_size"),
            ({"parameters": {"binary_data_size": 3}}, "either data or binary_data_size"),
            ({"data": None, "parameters": {"binary_data_size": -1}}, "binary_data_size"),
            ({"data": None, "parameters": {"binary_data_size": 2**63 - 1}}, "bytes of binary data"),
            ({"data": None, "parameters": {"binary_data_size": 2**63}}, "binary_data_size"),
            ({"data": {}}, "data"),
            ({"data": [1, 2]}, "2 elements"),
            ({"data": [256] * 1440}, "from 0 to 255"),
            ({"data": [-1] * 1440}, "from 0 to 255"),
            ({"data": [0.5] * 1440}, "from 0 to 255"),
            ({"data": ["1"] * 1440}, "from 0 to 255"),
            ({"data": [[1, 2], 3]}, "from 0 to 255"),
            ({"data": [[1, 2], "x" * 10]}, "from 0 to 255"),
            ({"data": [None]}, "from 0 to 255"),
        ],
    )
    def test_crops(self, changes: dict[str, Any], reason: str) -> None:
        with pytest.raises((InferenceRequestError, BodyTooLargeError), match=reason):
            read_plain(as_json(crops_tensor(GREY, **changes)))

    @pytest.mark.parametrize(("shape", "error"), [([1, 8, 7], ImageTooSmallError), ([1, 4097, 8], ImageTooLargeError)])
    def test_crops_of_a_size_that_no_image_may_have(self, shape: list[int], error: type[EyestateError]) -> None:
        with pytest.raises(error):
            read_plain(as_json(crops_tensor(np.zeros(shape, np.uint8))))

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"shape": [4]}, "3 elements"),
            ({"shape": [3, 1]}, "shape"),
            ({"datatype": "UINT8"}, "BYTES"),
            ({"data": [1, 2, 3]}, "data"),
            ({"data": ["ä", "", ""]}, "element 0 of 'images' is not base64"),
            ({"data": ["abc", "", ""]}, "element 0 of 'images' is not base64"),
        ],
    )
    def test_images(self, changes: dict[str, Any], reason: str) -> None:
        with pytest.raises(InferenceRequestError, match=reason):
            read_plain(as_json(images_tensor(FILES, **changes)))

    @pytest.mark.parametrize("cut", [1, 3, 4, 5, 100])
    def test_images_whose_binary_data_are_cut(self, cut: int) -> None:
        part = elements(FILES)[:-cut]
        head = as_json(images_tensor(FILES, **binary(len(part))))
        with pytest.raises(InferenceRequestError, match="element 2 of 'images' goes beyond"):
            read_plain(head + part, len(head))

    @pytest.mark.parametrize("length", ["", "-1", "+5", "1.5", "x", "²", "9" * 5000, "100000"])
    def test_length_of_the_json(self, length: str) -> None:
        with pytest.raises(InferenceRequestError, match=JSON_LENGTH):
            read_plain(as_json(crops_tensor(GREY)), length)

    @pytest.mark.parametrize("difference", [-1, 1])
    def test_binary_data_longer_or_shorter_than_said(self, difference: int) -> None:
        head = as_json(crops_tensor(GREY, **binary(GREY.size)))
        with pytest.raises(InferenceRequestError, match="bytes of binary data"):
            read_plain(head + bytes(GREY.size + difference), len(head))

    @pytest.mark.parametrize("body", [b"{", b"\xff", b"[]", b"1", b"null", b"[" * 10_000, b'"\\ud800"', b"{}"])
    def test_what_is_no_request(self, body: bytes) -> None:
        with pytest.raises(InferenceRequestError):
            read_plain(body)

    def test_more_json_than_accepted(self) -> None:
        with pytest.raises(BodyTooLargeError, match="binary data"):
            read_plain(bytes(MAX_JSON_BYTES + 1))

    @pytest.mark.parametrize(
        "document",
        [
            b"[" + b"[]," * 1_398_000 + b"[]]",
            b"[" + b"{}," * 1_000_000 + b"{}]",
            b"[" * 2**22,
            b'["' + b'","' * 10**6 + b'"]',
        ],
        ids=["lists", "objects", "depth", "strings"],
    )
    def test_more_values_than_are_parsed_while_others_wait(self, document: bytes) -> None:
        started = time.thread_time()
        with pytest.raises(BodyTooLargeError, match="65,536 values"):
            read_plain(document)
        assert time.thread_time() - started < 0.2  # a second where they are parsed

    @pytest.mark.parametrize("element", ["[0,0,0]", "[[7]]", "0"])
    def test_as_much_json_as_accepted_is_read(self, element: str) -> None:
        pixels = [element] * (MAX_CROPS * 64 // (3 if "0,0" in element else 1) // 2)
        tensor = crops_tensor(np.zeros((MAX_CROPS // 2, 8, 8), np.uint8), data=["DATA"])
        document = as_json(tensor).replace(b'["DATA"]', f"[{','.join(pixels)}]".encode())
        with pytest.raises(InferenceRequestError, match="elements") if "0,0" in element else nullcontext():
            assert read_plain(document)[1][0].shape == (MAX_CROPS // 2, 8, 8)  # type: ignore[union-attr]

    def test_more_crops_than_accepted(self) -> None:
        head = as_json(
            crops_tensor(np.zeros((MAX_CROPS, 8, 8), np.uint8), **binary(MAX_CROPS * 64)), images_tensor(FILES)
        )
        with pytest.raises(BodyTooLargeError, match="16,387 crops"):
            read_plain(head + bytes(MAX_CROPS * 64), len(head))


class TestOptionalMembers:
    FULL = as_json(
        {**images_tensor(FILES), "parameters": {"binary_data_size": None}},
        id="7",
        parameters={"binary_data_output": False},
        outputs=[{"name": "score", "parameters": {"binary_data": True}}],
    )

    @pytest.mark.parametrize("member", ["id", "parameters", "outputs"])
    def test_of_a_request_that_are_null_are_as_if_absent(self, member: str) -> None:
        document = json.loads(self.FULL)
        null, _ = read_plain(json.dumps(document | {member: None}).encode())
        del document[member]
        absent, _ = read_plain(json.dumps(document).encode())
        assert null == absent

    @pytest.mark.parametrize("members", [{"parameters": None}, {"parameters": {"binary_data_size": None}}])
    @pytest.mark.parametrize("tensor", [crops_tensor(GREY), images_tensor(FILES)], ids=["crops", "images"])
    def test_of_an_input(self, tensor: dict[str, Any], members: dict[str, Any]) -> None:
        asked, _ = read_plain(as_json(tensor | members))
        assert asked == read_plain(as_json(tensor))[0]

    def test_data_of_a_binary_input(self) -> None:
        head = json.dumps({"inputs": [crops_tensor(GREY, **binary(GREY.size)) | {"data": None}]}).encode()
        assert np.array_equal(np.asarray(read_plain(head + GREY.tobytes(), len(head))[1][0]), GREY)

    @pytest.mark.parametrize("parameters", [None, {}, {"binary_data": None}])
    def test_of_an_output(self, parameters: Any) -> None:
        asked, _ = read_plain(as_json(crops_tensor(GREY), outputs=[{"name": "state", "parameters": parameters}]))
        assert asked == read_plain(as_json(crops_tensor(GREY), outputs=[{"name": "state"}]))[0]

    @pytest.mark.parametrize("parameters", [{"binary_data_output": None}, {"sequence_id": None}])
    def test_parameters_of_a_request(self, parameters: Any) -> None:
        asked, _ = read_plain(as_json(crops_tensor(GREY), parameters=parameters))
        assert asked == read_plain(as_json(crops_tensor(GREY)))[0]

    @pytest.mark.parametrize("member", ["name", "datatype", "shape"])
    def test_the_others_are_missed(self, member: str) -> None:
        with pytest.raises(InferenceRequestError, match=r"inputs\.0"):
            read_plain(as_json(crops_tensor(GREY) | {member: None}))


def mutated(body: bytes, cuts: list[tuple[float, bytes]]) -> bytes:
    for place, piece in cuts:
        at = int(place * len(body))
        body = body[:at] + piece + body[at + len(piece) :]
    return body


class TestAnyBody:
    @settings(max_examples=300, deadline=None)
    @given(
        start=st.sampled_from(
            [
                as_json(crops_tensor(GREY[:1])),
                as_json(images_tensor(FILES[:2])),
                by_tritonclient(("crops", GREY))[0],
                by_tritonclient(("images", np.array(FILES, np.object_)))[0],
            ]
        ),
        cuts=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=12)), max_size=4),
        json_length=st.none() | st.integers(0, 400).map(str) | st.text(max_size=5),
    )
    def test_is_read_or_refused(self, start: bytes, cuts: list[tuple[float, bytes]], json_length: str | None) -> None:
        try:
            asked, tensors = read(mutated(start, cuts), json_length)
        except EyestateError as error:
            status = error.status
        else:
            status = 200
            assert [len(tensor) for tensor in tensors] == [tensor.shape[0] for tensor in asked.inputs]
        assert status == 200 or 400 <= status < 500

    @settings(max_examples=200, deadline=None)
    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["crops"]),
            lambda inner: (
                st.lists(inner, max_size=4)
                | st.dictionaries(
                    st.sampled_from(["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id"]),
                    inner,
                )
            ),
            max_leaves=30,
        )
    )
    def test_any_json_is_read_or_refused(self, document: Any) -> None:
        with pytest.raises(EyestateError) as refused:
            read_plain(json.dumps(document).encode())
        assert 400 <= refused.value.status < 500

    @settings(max_examples=400, deadline=None)
    @given(
        place=st.sampled_from(
            [
                '{"name": "crops", "datatype": "UINT8", "shape": [NUMBER, 20, 24], "data": []}',
                '{"name": "crops", "datatype": "UINT8", "shape": [1, 20, NUMBER], "data": []}',
                '{"name": "crops", "datatype": "UINT8", "shape": [1, 20, 24, NUMBER], "data": []}',
                '{"name": "crops", "datatype": "UINT8", "shape": [1, 20, 24], "data": [NUMBER, [NUMBER]]}',
                '{"name": "images", "datatype": "BYTES", "shape": [NUMBER], "data": []}',
                '{"name": "images", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": NUMBER}}',
                '{"name": "images", "datatype": "BYTES", "shape": [1], "data": [NUMBER]}',
                '{"name": NUMBER}',
            ]
        ),
        number=st.integers().map(str)
        | st.floats().map(json.dumps)
        | st.builds(
            lambda sign, digit, count, rest: sign + digit * count + rest,
            st.sampled_from(["", "-"]),
            st.sampled_from("159"),
            st.sampled_from([18, 19, 20, 100, 308, 309, 4299, 4300, 4301, 20_000]),
            st.sampled_from(["", "", ".0", "e5", "e999999"]),
        ),
    )
    def test_any_number_is_refused_where_it_does_not_belong(self, place: str, number: str) -> None:
        with pytest.raises(EyestateError) as refused:
            read_plain(('{"inputs": [' + place.replace("NUMBER", number) + "]}").encode())
        assert 400 <= refused.value.status < 500
        assert len(refused.value.message) < 1000

    @settings(max_examples=200, deadline=None)
    @given(
        st.builds(
            lambda sign, digits, rest: sign + digits + rest,
            st.sampled_from(["", "-", "+", " "]),
            st.text("0123456789²٣_", min_size=1, max_size=12) | st.integers(4000, 6000).map(lambda n: "9" * n),
            st.sampled_from(["", ".0", "e3"]),
        )
    )
    def test_any_length_of_the_json_is_no_fault_of_ours(self, length: str) -> None:
        with pytest.raises(EyestateError) as refused:
            read_plain(b"{" + bytes(20), length)
        assert 400 <= refused.value.status < 500


class TestWrite:
    SCORES = np.array([0.1, 0.5, 0.9], np.float32)
    STATES: tuple[State, ...] = ("closed", "uncertain", "open")

    def written(self, **fields: Any) -> tuple[dict[str, Any], bytes]:
        asked = InferenceRequest.model_validate({"inputs": [crops_tensor(GREY)], **fields})
        head, part = write(asked, load_model().manifest, self.SCORES, list(self.STATES))
        return json.loads(head), part

    def test_json_has_the_protocols_fields_and_no_other(self) -> None:
        manifest = load_model().manifest
        answer, part = self.written()
        assert answer == {
            "model_name": manifest.name,
            "model_version": manifest.version,
            "outputs": [
                {"name": "score", "datatype": "FP32", "shape": [3], "data": self.SCORES.tolist()},
                {"name": "state", "datatype": "BYTES", "shape": [3], "data": list(self.STATES)},
            ],
        }
        assert part == b""

    def test_id_is_the_requests(self) -> None:
        assert self.written(id="ä\n\u2028")[0]["id"] == "ä\n\u2028"

    def test_outputs_are_those_asked_for_in_that_order(self) -> None:
        outputs = [{"name": "state"}, {"name": "score"}]
        assert [output["name"] for output in self.written(outputs=outputs)[0]["outputs"]] == ["state", "score"]
        assert [output["name"] for output in self.written(outputs=outputs[:1])[0]["outputs"]] == ["state"]

    @pytest.mark.parametrize(
        ("everywhere", "score", "state", "expected"),
        [
            (None, None, None, [False, False]),
            (True, None, None, [True, True]),
            (False, None, True, [False, True]),
            (True, False, None, [False, True]),
            (None, True, True, [True, True]),
        ],
    )
    def test_binary_where_asked_for(
        self, everywhere: bool | None, score: bool | None, state: bool | None, expected: list[bool]
    ) -> None:
        def said(name: str, value: bool | None) -> dict[str, bool]:
            return {} if value is None else {name: value}

        answer, part = self.written(
            parameters=said("binary_data_output", everywhere),
            outputs=[
                {"name": "score", "parameters": said("binary_data", score)},
                {"name": "state", "parameters": said("binary_data", state)},
            ],
        )
        assert ["parameters" in output for output in answer["outputs"]] == expected
        assert ["data" not in output for output in answer["outputs"]] == expected
        head = json.dumps(answer).encode()
        result = InferResult.from_response_body(head + part, header_length=len(head))
        assert result.as_numpy("score").tolist() == self.SCORES.tolist()
        assert [s if isinstance(s, str) else s.decode() for s in result.as_numpy("state")] == list(self.STATES)


def test_requested_output_of_tritonclient_is_understood() -> None:
    tensor = InferInput("crops", list(GREY.shape), "UINT8").set_data_from_numpy(GREY)
    outputs = [InferRequestedOutput("state", binary_data=False, class_count=2)]
    body, length = InferenceServerClient.generate_request_body([tensor], outputs=outputs, request_id="7")
    asked, _ = read_plain(body, length)
    assert asked.id == "7"
    assert asked.outputs[0].parameters.binary_data is False
