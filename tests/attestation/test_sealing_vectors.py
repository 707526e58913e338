"""Fixed bytes: the published HPKE vector for the suite in use, and our own (docs/protocol/envelope.md)."""

import json
import os
from datetime import UTC, datetime
from hashlib import sha256, shake_256
from pathlib import Path

import pytest
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from attestation.chunks import derive
from attestation.frames import Endpoint, FrameType, encode_frame, encode_plain_request
from attestation.sealing import Draft, Header, ResponseOpener, ResponseSealer, open_one_shot, parse_request
from attestation.session import SessionReceiver, _Sending, _session_id
from attestation.xwing import HostKey, suite

VECTORS = Path(os.environ.get("CHRYSALIS_VECTORS", "../shared/vectors")) / "hpke" / "hpke_pq_vectors.json"
XWING, HKDF_SHA256, CHACHA20_POLY1305 = 0x647A, 1, 3

HOST = bytes.fromhex("0102030405060708")
HOST_KEY = HostKey.from_seed(b"\x11" * 32)
ACCOUNT_KEY = Ed25519PrivateKey.from_private_bytes(b"\x22" * 32)
HEADER = Header(
    model=b"\x33" * 32,
    lease=b"\x44" * 16,
    account=ACCOUNT_KEY.public_key().public_bytes_raw(),
    price_cap=1_000_000,
    expires=1_800_000_000,
)
BODY = encode_plain_request(Endpoint.CHAT_COMPLETIONS, b'{"model":"demo"}')
CONTENT_KEY = b"\x55" * 32
NOW = datetime(2026, 11, 23, tzinfo=UTC)
REQUEST_HASH = "78b6e75cd87771841114935eb629d36f23d969eac0941b89a0f6fe7e3835fbf1"
SESSION_WRAP = (
    "02000000000000000000000000000000009a832f9210dcc42cc8dc2605d4aeaec3413c4de50cbaa192f33917cc7708b44402e33d6e4dba0d"
    "779c6167ccc61e82ac"
)
SESSION_REQUEST_SHA256 = "c0b6127c2be23c4ed7d1cd20adee1ffcdce5289014aecab97da416995f18ea40"
SESSION_ID = "eb1921cc03a0f4b8"
ANSWER_SHA256 = "3b08e86cf62d02724f2cdc2e8d1dbdcf6e09a52f09c6c3deac0f6107e1990817"
ONE_SHOT_HEAD = (
    "006101333333333333333333333333333333333333333333333333333333333333333344444444444444444444444444444444a09aa5f47a"
    "6759802ff955f8dc2d2a14a5c99d23be97f864127ff9383455a4f000000000000f4240000000006b49d2006b170cf227671be48801db528d"
    "4e8bea6988bd586a69e79270cd42ee5e528a1f40c167a4dff11b4947673132c4a85550c6de930db01b29a731f15130ceaa342befe603ba78"
    "0e2d2aa50b6efe8b260748d8c04f16cc5eca9e834e707186a5c24107010102030405060708049100899ff72a7a938b38bbfb42fcb98baa42"
    "6a03c38e00f00ea8f9e983c93fc9ef7dcb6ba8c0b94e234bed49f6ee0da977c4f495aeca6a0eddba369c6b234c05aff5a824e3f34d4d196c"
    "8266efdf7bd6a625b09e27fa92b78152dedbaf3e78979530917d712991b097a72a338bc5d74cd6e373a91fa457d32a2784f12d1bf233e4e1"
    "d7eee05a254c113e459546412ba1adbee8d69d2ba00416f3404dc984ceb9430b8f146841242531036576266036c7b67082a3396e632b3336"
    "3eb654278f968a4dfaae76921977dff73dadcebd4be89d0a8547d76eeb465fb9fbc7b3aeb65260f9db078bce1b74607448d7c843da717440"
    "d686a3be391b375b38083d69d954a17cb054db87f5b80ad8a5f29252b964abfcea9fd05afc8e5f7628d6d7b00650d22044bcf95516986a4f"
    "0ec91fb610e3c90a9890b169ed101b4284589a1f4e6edc97eafc8772981d4118b349981cd29aba2b58721f92997cd1f1905583fdda691b22"
    "14b78fa6fc33b33faf8b0c1a17c8e7777094f689cdcd4a5b2b2d7cebde37f513244da850b15fa805189502cfbeee929341514dc555ffb170"
    "ac93cb23270bfcfeca093c9ce67d437ff5b900563f88ef43ed3d22060dde11b633f8e87d6ede8c58bb19f1411878fcd2f3aa9668832f072d"
    "4c7e9a1f1d838705ead372d58469f8951a60f6700b321270dcb0b3fa2cf2b0a47a8dcc04a3c9de760762b32279a413bb095629d02914d85b"
    "b0698074ddde45726c6dd4b580b6b34bad1adb7f123a0029fd6a0abf3c7c4661af1db7a4f4e0fa0405520afcc9781523fe4f73627d24b0aa"
    "47e26e10b260450b584ab5e5645ab603d0b868a2d8b99da54fc0a80ad173f116c8d549f5f0c84a4d333df5f4dfda1f8d42ac08e05e32e9a3"
    "3d14eae30b18d1f0cb8673f49d7309566cbb3c56520982de51ab0675916566755da8e790c89c35d9c6f04d5fdb290b219b0a0033f8a549c6"
    "f87dcdf86c4a4c0b4225e8af70f72bff7387caaa3a711877503897d7e05d8b3f2423332237b257548973dd2fc9a413e15a8e1df747d3e239"
    "49f0541ad19676f5c2c6d5ebfc2a9ea19bd9fca05aec9f74d73eb48a94eeb00d917cdda9aeab3f71a90f2b122dad20dd48e45fcd72e85f8f"
    "5f0632a243aa4f7d3334e5b1918d3262e8c0a7a92a6d0462011fe5b4484bba888780e0f99056638f7f8bb32bf386990e1196f3ef918cffcd"
    "974f5cad7bfc7f1f207006ebd58bfdbdb84680bb39dcad14b7e088e4868f8157e2c39b2ec5c83857780d30e14db4dd3d77c13575183bd8b0"
    "79a85b4c80677e3aa3658ddc90a77d04215963ea4db91b708f0c1d475dacca5058963c28a2974308892bec34854e1327cab0a9a04e4741e5"
    "b83fe3316c4190bd8dd7fd78f111974820fdf6b9d278ce90678bff5c26328022e78d018c9154e49ade10b62411bae9e1b5f5b23acff8b122"
    "d2082265f48c8d2cf049018d008f6a47329541610982e755c2f5928b95bd4428fb31617c34a12c4e2de5ddbea374a689dafe94a1776396db"
    "a0111cf136b34f6233ab5ac5251feea22563ad010f39c9714de994bc82b5af76ec70a342d5a7944ecb3b5023feab7abd3816008a623abbda"
    "e3bb9eeebdd650bbc08caeb1ef71dd2e1d9c22053bfdb220c94554935a6de0c2"
)
OPENING = (
    "dca91b1553e526f7abd2153005514333ae8e85134c8f0f94c7153f1f93e2a88e8676dcfd499fa35c616bbf109428b9b98620babd8a43aa64"
    "933031b8ed05b033dcc1d7bdffd7130d962af5eb32196c04c4c01eb776b0d06ce97cbdf95d77612fd149053af9b90bb4de48b84422c8a85f"
    "228987d150565fe9a1fbb79a3a9c917fa2e4e158286e7277a3f2b3d61bd62e40589ad23dfe3bcff3c64dd1ed41724f6ca1474b6dc1166b7f"
    "a5c6edf36b18b84c9e5b5ff3c58bc11754e283f6b4d4bc6d8f506efacbbb1a63c747e18d4ae01482c812042de65b2e0ed5df64b663e435da"
    "1a6633f11f80a1edb670c106e4370e1e37d243fda9887d96bf563e58660a64fe30c63e000037dbd5b67e7ace5f167574cc2f0f6750a35622"
    "0064957da3a91aab5301c1794083936d59bec7ba2a64723fe9e1dde8c03967289cfb95a5d4282e61ff2e9bfc55ed2b1aef7f0c12db982c80"
    "02f2458e95717bf226d839141e9e245cd5cfe2840f6b74af68845b2dd5cc098063a086ef4a0229b55934e732f63beed2c9f62bd891e6dd05"
    "5d434c22940532e84ea8d299072f7fcb42df38d2d729a5c8d4826a739274be1b4f5bb8a7ee9f50b95cb17d6987b899a55084f52e81d40a47"
    "1d0ccd9bb6d69a910709deef33d89e1d05237c337340ac34e65c0802fb8e18469a03ae4bcd303d47683450f0fc0d9ca03ec1f26ec44f61ab"
    "d94f3a9b4a715ed046bb541275167b46e587b87af59f71da4b0d8c8436b08b06dedb977710d6040b1f7eaa010c365e489ed669f084481d78"
    "6f69aba26db305afbd32d69a2c9a45960a24a02eeb5b78023be3d6b3902e4f659bff01d945a1182da2e0f67c4738fcfda4a758894e6252e5"
    "158e9955bed3d2552dc13a9cf0bda19fd16c0ffacc2a8223a108ec7032c1a8c0d0c19d4e12fd69fccd02a47878e92eddf3b65b6ef213395f"
    "41c48461a9b9b43eebc19b22f058f15361dba8b21f5b80b0ed9ec9397481bdf22a49ce7da912fac792841dae770b86f5c75a7e3c3b7c3deb"
    "eadafdff8458356f59f7a61119609ab7ef03cdea32b2d72ab4276c1ca956b03f347f7420204b2851c4a87d388bd9437cd6dd524848b7c4e4"
    "8716884b0a8ca085d9c8a6be70d4256aa0b253b9ed16ac76edb3705167e4866f5000c26927a9839403fa3bd4adc16566eec62d8427b4914c"
    "c333db0b83b4bf885239c166dcead860dbf74bf5cdf943f50c4ce23f366c70907244e68f661d6e2c68d6328fe9fbb93e0052c817cb1c384d"
    "6e112427c7b6fca9fb7cdac002c705b0c4534ca378e1a7a4af72190be13fac21b25b34fefbbe52ff75048491e19467a732a2ce9ee2014779"
    "5a2d884262de9112bb96b366039362371f17245e242737a1471cdd2976d35f4d5c6ed87fc1619b2677be0748407c20c8a8feef7168e2e7ff"
    "bfa87a4e1300bdfe4ca61d19d8b1ccb9b68f4e1eb9891e069e6955f6161a24a2a6cc977609b50d246b0901abae113faca6c7a11bc1e1baad"
    "9c4303d4d40354ff5d5075a58109e83259fcee3bb4cb44de2dc34cb907b2a6d6120c0181757e75cfba2611ed60a18b07d6415169e1212169"
    "5419c704ab8c2833c672f98c2908f37c93cbb65c4ca8ab47836ed4bda7d3d41ab3fc0154ca557d5dcc8623fbf6ce0f3fbee2f6d67117916c"
    "4ab1a3c663e5477533e3d1b475d4924d937f78f43f2bd904ea708ccbeb229f8daa5637a6caa9df11a5b0cb5b2c0b19593b6ae54e14ecdf06"
)


@pytest.mark.skipif(not VECTORS.is_file(), reason="CHRYSALIS_VECTORS does not lead to the published vectors")
def test_the_suite_opens_the_published_xwing_vector() -> None:
    [vector] = [v for v in json.loads(VECTORS.read_text()) if (v["kem_id"], v["kdf_id"]) == (XWING, HKDF_SHA256)]
    assert vector["aead_id"] == CHACHA20_POLY1305
    key = HostKey.from_seed(bytes.fromhex(vector["skRm"]))
    assert key.public.hex() == vector["pkRm"]
    first = vector["encryptions"][0]
    # the vectors have associated data, which the single-shot interface in use leaves empty: ask one level below
    material = shake_256(bytes.fromhex(vector["skRm"])).digest(96)
    private = MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(material[:64]), X25519PrivateKey.from_private_bytes(material[64:])
    )
    opened = openssl.hpke._decrypt_with_aad(
        suite(),
        bytes.fromhex(vector["enc"] + first["ct"]),
        private,
        bytes.fromhex(vector["info"]),
        bytes.fromhex(first["aad"]),
    )
    assert opened.hex() == first["pt"]


def test_a_session_request_has_the_documented_bytes() -> None:
    draft = Draft(HEADER, BODY, CONTENT_KEY)
    session = _Sending(bytes(8), b"\x66" * 32, b"")
    session.confirmed = True
    sealed = draft.assemble([(HOST, session.wrap(CONTENT_KEY, draft.digest))])
    assert sealed.request_hash.hex() == REQUEST_HASH
    assert sealed.data[2 : 2 + 97].hex() == (
        "01" + "33" * 32 + "44" * 16 + HEADER.account.hex() + "00000000000f4240" + "000000006b49d200"
    )
    assert parse_request(sealed.data, HOST).wrap.hex() == SESSION_WRAP
    assert sha256(sealed.data).hexdigest() == SESSION_REQUEST_SHA256


def test_the_one_shot_request_on_file_opens() -> None:
    request = parse_request(bytes.fromhex(ONE_SHOT_HEAD) + Draft(HEADER, BODY, CONTENT_KEY)._chunks, HOST)
    opened = open_one_shot(request, HOST_KEY)
    assert (opened.header, opened.body, opened.content_key) == (HEADER, BODY, CONTENT_KEY)
    assert opened.request_hash.hex() == REQUEST_HASH


def test_the_opening_on_file_opens_a_session() -> None:
    place = HOST + HEADER.lease + HEADER.account
    opening = bytes.fromhex(OPENING)
    draft = Draft(HEADER, BODY, CONTENT_KEY)
    session = _Sending(_session_id(place, opening), b"\x66" * 32, opening)
    assert session.id.hex() == SESSION_ID
    sealed = draft.assemble([(HOST, session.wrap(CONTENT_KEY, draft.digest))])
    receiver = SessionReceiver(HOST_KEY, HOST)
    receiver.admit(HEADER.lease, HEADER.account, HEADER.expires)
    assert receiver.open(parse_request(sealed.data, HOST), now=NOW).body == BODY


def test_an_answer_has_the_documented_bytes() -> None:
    sealer = ResponseSealer(CONTENT_KEY, bytes.fromhex(REQUEST_HASH), b"\x77" * 16)
    answer = sealer.seal(encode_frame(FrameType.DATA, b'{"n":1}')) + sealer.seal(
        encode_frame(FrameType.RECEIPT, b"receipt"), last=True
    )
    assert sha256(answer).hexdigest() == ANSWER_SHA256
    assert answer[: 16 + 5].hex() == "77" * 16 + "0000000110"
    opener = ResponseOpener(CONTENT_KEY, bytes.fromhex(REQUEST_HASH))
    assert (opener.feed(answer), opener.finished) == ([b'\x00{"n":1}', b"\x01receipt"], True)


def test_a_derived_key_is_one_block_of_hkdf_expand_as_the_library_makes_it() -> None:
    for label, context in ((b"commit", b""), (b"request", b"\x66" * 32), (b"response", bytes(300))):
        info = b"chrysalis/1 " + label + b"\0" + context
        assert derive(CONTENT_KEY, label, context) == HKDFExpand(SHA256(), 32, info).derive(CONTENT_KEY)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_of_another_length_derives_nothing(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        derive(bytes(size), b"request")
