"""Signatures of the gateway against the vendor's own signer, on random requests."""

import random
import string
import uuid
from contextlib import closing

import pytest
from support.aksk import Keys, SignatureCheckingVbs, legacy_signature, random_text, vendor_signature

CALLS = 40


@pytest.mark.parametrize("temporary", [False, True], ids=["permanent keys", "temporary keys"])
@pytest.mark.parametrize(("scheme", "sign"), [("sdk", vendor_signature), ("legacy", legacy_signature)])
def test_signatures(gateway, certificates, scheme, sign, temporary):
    keys = Keys.random(temporary)
    with closing(SignatureCheckingVbs(keys=keys, sign=sign)) as vbs:
        url = vbs.url + random.choice(["", "/vbs", "/a/b-c_d~e"])
        flags = ["--auth=aksk", f"--aksk-scheme={scheme}", *certificates.mutual_flags]
        served = gateway(*flags, env=keys.variables(), upstream=url)
        for _ in range(CALLS):
            project = random_text(string.ascii_letters + string.digits + "_-", random.randint(1, 64))
            share = str(uuid.UUID(int=random.getrandbits(128)))
            done = served.get(*certificates.mutual_client_flags, project=project, share=share, token=None)
            assert (done.stderr, done.returncode, vbs.wrong) == ("", 0, [])
        assert len(vbs.requests) == CALLS
