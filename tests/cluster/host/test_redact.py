"""Secrets are taken out of text, and nothing else is."""

import json
import time

import pytest
import yaml

from cluster.host.redact import redact
from configs.secrets import is_secret

HEX40, HEX64 = "0123456789abcdef" * 2 + "01234567", "0123456789abcdef" * 4
AWS = "AKIA" + "ABCDEFGHIJKLMNOP"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzzzzzzzzz"
PEM = "-----BEGIN {0}PRIVATE KEY-----\nMIIEow\nabc/def+==\n-----END {0}PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("loading with hf_" + "aB3" * 8 + " now", "hf_" + "aB3" * 8),
        (f"WANDB_API_KEY={HEX40}", HEX40),
        (f"export WANDB_API_KEY='{HEX40}'", HEX40),
        (f"api_key: {HEX40}", HEX40),
        (f'wandb.login(api_key = "{HEX40}")', HEX40),
        (f"wandb login --relogin {HEX40}", HEX40),
        (f"machine api.wandb.ai\n  login user\n  password {HEX40}\n", HEX40),
        (f"key id {AWS} used", AWS),
        (f"{AWS}:{AWS_SECRET}", AWS_SECRET),
        (f"aws_secret_access_key = {AWS_SECRET}", AWS_SECRET),
        ("https://b.s3.amazonaws.com/x?X-Amz-Signature=abcdef&y=1", "abcdef"),
        ("git clone https://ghp_" + "a1B2" * 9 + "@github.com/x/y", "ghp_" + "a1B2" * 9),
        ("github_pat_" + "11ABC_" * 8, "11ABC_11ABC_"),
        ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
        ("'authorization': 'Basic dXNlcjpwYXNz'", "dXNlcjpwYXNz"),
        ('{"headers": {"Authorization": "Bearer s3cr3t"}}', "s3cr3t"),
        ("curl -H 'authorization:token s3cr3tvalue'", "s3cr3tvalue"),
        ("sent bearer zyxwvut", "zyxwvut"),
        ("redis://:p@ss:word@host:6379/0", "p@ss:word"),
        ("postgres://user:hunter2@host/db and s3://k:v4lue@bucket", "hunter2"),
        ("postgres://user:hunter2@host/db and s3://k:v4lue@bucket", "v4lue"),
        ("password=hunter2", "hunter2"),
        ("PASSWORD: 'two words'", "two words"),
        ('{"db_password": "a\\"b c"}', "b c"),
        (json.dumps({"log": json.dumps({"password": "x y z"})}), "x y z"),
        ("Namespace(token='abc', other=1)", "abc"),
        ("--auth-token abcdef --steps 5", "abcdef"),
        ("['--password', 'hunter2']", "hunter2"),
        ("token = supersecret", "supersecret"),
        ("auth_token: supersecret", "supersecret"),
        ("my_secret: 12345", "12345"),
        ("DB_PASS=hunter2", "hunter2"),
        ("MYPASS: hunter2", "hunter2"),
        ("BASIC_AUTH=basicauth77", "basicauth77"),
        ("GITHUB_PAT=abcdefg", "abcdefg"),
        ("WANDB_KEY2=abcdefg", "abcdefg"),
        ("SLACK_WEBHOOK_URL=https://hooks.example.org/T0/B1", "hooks.example.org"),
        ("DEPLOY_KEY_2=abcdef", "abcdef"),
        ("SERVICE_TOKEN_PROD=abcdef", "abcdef"),
        ("key=Ab3dEf6hIj9LmN2pQr", "Ab3dEf6hIj9LmN2pQr"),
        (PEM.format(""), "abc/def"),
        (PEM.format("OPENSSH "), "abc/def"),
        (json.dumps(PEM.format("RSA ")), "abc/def"),
        (PEM.format("EC ").partition("-----END")[0], "abc/def"),
        ("eyJhbGciOiJI." + "eyJzdWIiOiIx" + ".SflKxwRJSM", "SflKxwRJSM"),
    ],
)
def test_a_secret_is_taken_out_and_taking_out_again_changes_nothing(text, secret):
    clean = redact(text, environment={})
    assert secret in text
    assert secret not in clean
    assert "[redacted]" in clean
    assert redact(clean, environment={}) == clean


@pytest.mark.parametrize(
    "text",
    [
        f"commit {HEX40}",
        f"code_version: {HEX40}+changes",
        f'"sha256": "{HEX64}", "fingerprint": "{HEX64}"',
        f"cache key: {HEX64}",
        "store/train-0123456789ab/record.json",
        "1,234 tokens/s, tokens: 1234, num_tokens=99, seconds_per_token=0.0041",
        '{"pad_token": "<pad>", "eos_token": "</s>", "token": 17, "tokenizer": "store/tokenizer-0123456789ab"}',
        "token: null, secret: none",
        "--set KEY=VALUE and key=steps.model.config.num_steps",
        "the token: expected one of these",
        "ray://head:10001 http://127.0.0.1:8265/api/version s3://bucket/prefix",
        "RAY_AUTH_TOKEN_PATH=/home/me/.ray/auth_token",
        "RAY_AUTH_MODE=token BYPASS=1 PATH=/usr/bin PWD=/home/me OLDPWD=/home SSH_AUTH_SOCK=/tmp/x KEYBOARD=us",
        'a second pass: {"password": "", "next": 1}',
        "mail user@example.org, monkey: banana, keyboard=us",
        "hf_transfer hf_hub_download HF_HUB_OFFLINE=1",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text, environment={}) == text


def test_values_of_secret_variables_go_however_they_are_written():
    environment = {"MY_API_KEY": 'sesame "open"', "X_TOKEN": "sesame", "HOME": "/home/me", "A_KEY": "12345"}
    clean = redact('sesame "open" | sesame \\"open\\" | sesame%20%22open%22 | /home/me 12345', environment=environment)
    assert clean == "[redacted] | [redacted] | [redacted] | /home/me 12345"
    assert redact("/etc/token-file", environment={"RAY_AUTH_TOKEN_PATH": "/etc/token-file"}) == "/etc/token-file"


def test_without_an_environment_it_is_that_of_the_process(monkeypatch):
    monkeypatch.setenv("SOME_PASSWORD", "correct horse")
    assert redact("say correct horse!") == "say [redacted]!"


def test_a_long_line_takes_no_longer_than_its_length_says():
    started = time.monotonic()
    redact("A" * 300_000 + " token token= password " * 5_000, environment={"A_TOKEN": "secret-value"})
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "value",
    [
        "AccountName=x;AccountKey=hunter2+/==",
        "password=hunter2",
        "DB_PASS=hunter2,",
        'say "password=hunter2"',
        "cookie: a=b",
    ],
)
def test_what_was_json_or_yaml_still_is(value):
    for tree in ({"a": value, "b": [value, {"c": value}]}, {"log": json.dumps({"in": value, "n": 1})}):
        clean = redact(json.dumps(tree), environment={})
        assert json.loads(clean).keys() == tree.keys()
        assert "hunter2" not in clean
    flow = redact("environment: {NOTE: {password: hunter2}}", environment={})
    assert yaml.safe_load(flow) == {"environment": {"NOTE": {"password": ["redacted"]}}}


@pytest.mark.parametrize(
    "name", ["DB_PASS", "SMTP_PASS", "AUTH", "WANDB_KEY2", "SLACK_WEBHOOK_URL", "MYPASS", "GITHUB_PAT", "PGPASSWORD"]
)
def test_more_names_of_secrets_are_known(name):
    assert is_secret(name) and not is_secret(f"{name}_PATH")


@pytest.mark.parametrize("name", ["RAY_AUTH_MODE", "SSH_AUTH_SOCK", "PATH", "PWD", "OLDPWD", "KEYBOARD", "BYPASS"])
def test_names_of_settings_are_none(name):
    assert not is_secret(name)
