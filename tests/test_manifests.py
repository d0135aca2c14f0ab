# SPDX-License-Identifier: BSD-3-Clause
"""What docker/kubernetes/ asks of a cluster, by the published schemas and without a cluster."""
import pathlib

import kubernetes_validate
import pytest
import yaml


PLACE = pathlib.Path(__file__).parent.parent / "docker" / "kubernetes"
VERSIONS = ["1.30", "1.33"]  # hostUsers came with the first


def documents(name):
    return list(yaml.safe_load_all((PLACE / name).read_text()))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_pod_is_one_and_no_word_of_it_is_unknown(version):
    [pod] = documents("pod.yaml")
    kubernetes_validate.validate(pod, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_slip_would_be_seen(version):
    [pod] = documents("pod.yaml")
    pod["spec"]["containers"][0]["securityContext"]["procMoun"] = "Unmasked"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, version, strict=True)


def test_the_template_of_agent_sandbox_is_the_same_pod():
    [pod] = documents("pod.yaml")
    template, pool = documents("sandbox.yaml")
    assert template["spec"]["podTemplate"]["spec"] == pod["spec"]
    assert pool["spec"]["sandboxTemplateRef"]["name"] == template["metadata"]["name"]
