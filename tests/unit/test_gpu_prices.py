"""GPU prices: names, instances, own prices with dates, and that an unknown GPU is never free."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from curb.connectors.pricing.gpus import GpuPriceOverride, GpuPrices, parse_offers

LIST = GpuPrices.load()
NOW = datetime(2026, 3, 1, tzinfo=UTC).timestamp()
HEAD = "provider,instance_type,gpu,gpus,region,usd_per_hour,effective_from,source\n"


def own(**settings: Any) -> GpuPriceOverride:
    return GpuPriceOverride.model_validate(settings)


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", "A100-80GB"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla V100-SXM2-32GB", "V100-32GB"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GH200 480GB", "GH200"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 NVL", "H100"),
        ("Tesla T4", "T4"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTXPRO6000"),
        ("Quadro P620", "Quadro P620"),
        ("", ""),
    ],
)
def test_names_of_dcgm_are_found_in_the_list(name: str, model: str) -> None:
    assert LIST.model(name) == model


def test_an_instance_is_priced_whole_and_a_gpu_by_the_dearest_vendor() -> None:
    price = LIST.price("NVIDIA H100 80GB HBM3", NOW, instance="p5.48xlarge")
    assert (price.usd_per_gpu_hour * 8, price.gpus, price.known) == (pytest.approx(55.04), 8, "priced")
    assert LIST.price("NVIDIA H100 80GB HBM3", NOW).usd_per_gpu_hour == pytest.approx(88.490000119 / 8)
    assert LIST.price("NVIDIA H100 80GB HBM3", NOW, provider="lambda").usd_per_gpu_hour == pytest.approx(3.29)
    # The cheapest offer of a vendor is mostly GPU; the others are mostly processors.
    assert LIST.price("NVIDIA L4", NOW, provider="aws").usd_per_gpu_hour == pytest.approx(0.8048)


@pytest.mark.parametrize(
    ("provider", "instance", "usd", "gpus"),
    [
        ("aws", "g4dn.12xlarge", 3.912, 4),
        ("aws", "g5.48xlarge", 16.288, 8),
        ("aws", "p6-b200.48xlarge", 113.9328, 8),
        ("gcp", "a3-ultragpu-8g", 84.806908493, 8),
        ("azure", "Standard_ND96isr_H100_v5", 98.32, 8),
        ("lambda", "gpu_8x_a100_80gb_sxm4", 22.32, 8),
        ("coreweave", "gd-8xl40s-i128", 18.0, 8),
    ],
)
def test_the_instance_type_decides_whatever_the_exporter_calls_the_gpu(
    provider: str, instance: str, usd: float, gpus: int
) -> None:
    for gpu in ("", "Graphics Device", "NVIDIA H100 80GB HBM3"):
        price = LIST.price(gpu, NOW, instance=instance, provider=provider)
        assert (price.usd_per_gpu_hour * gpus, price.gpus, price.known) == (pytest.approx(usd), gpus, "priced")


@pytest.mark.parametrize(
    ("instance", "gpu", "usd"),
    [
        ("p5e.24xlarge", "NVIDIA H100 80GB HBM3", 6.88),
        ("ml.p5.48xlarge", "NVIDIA H100 80GB HBM3", 6.88),
        ("p6-b300.48xlarge", "NVIDIA B200", 113.9328 / 8),
        ("g6.metal", "NVIDIA L4", 0.8048),
        ("a3-megagpu-8g", "NVIDIA H100 80GB HBM3", 88.490000119 / 8),
        ("a2-highgpu-16g", "NVIDIA A100-SXM4-40GB", 3.673385),
        ("n1-standard-8", "Tesla T4", 0.35),
        ("Standard_ND48s_H100_v9", "NVIDIA H100 80GB HBM3", 6.98),
        ("gpu_4x_h100_sxm5", "NVIDIA H100 80GB HBM3", 3.29),
        # Its vendor offers no such GPU, or is nobody who is known.
        ("gpu_2x_l40s", "NVIDIA L40S", 18.0 / 8),
        ("dgx-h100", "NVIDIA H100 80GB HBM3", 88.490000119 / 8),
        ("gpu-1.rack-2", "NVIDIA H100 80GB HBM3", 88.490000119 / 8),
    ],
)
def test_an_instance_type_that_is_not_listed_names_its_vendor(instance: str, gpu: str, usd: float) -> None:
    assert LIST.price(gpu, NOW, instance=instance) == (pytest.approx(usd), 0, "priced")


def test_a_given_provider_counts_whatever_the_instance_type_is_called() -> None:
    assert LIST.price("H100", NOW, instance="p5e.24xlarge", provider="lambda").usd_per_gpu_hour == pytest.approx(3.29)
    assert LIST.price("H100", NOW, instance="p5e.24xlarge", provider="nobody").known == "fallback"


def test_an_unknown_gpu_is_never_free() -> None:
    price = LIST.price("Quadro P620", NOW)
    assert price.known == "fallback"
    assert price.usd_per_gpu_hour == pytest.approx(6.99)
    assert LIST.price("NVIDIA H100", NOW, provider="nobody").known == "fallback"


def test_own_prices_win_from_their_day_on() -> None:
    prices = GpuPrices.load(
        [
            own(gpu="H100", usd_per_hour=2.5, effective_from="2026-01-01"),
            own(gpu="H100", usd_per_hour=2.0, effective_from="2026-06-01"),
            own(instance="dgx", gpus=8, usd_per_hour=16),
        ]
    )
    at = [datetime(2026, month, 1, tzinfo=UTC).timestamp() for month in (1, 6)]
    assert prices.price("H100", at[0] - 1).usd_per_gpu_hour == pytest.approx(88.490000119 / 8)
    assert [prices.price("H100", each).usd_per_gpu_hour for each in at] == [2.5, 2.0]
    # A discount on the GPU leaves the number of GPUs of the listed instance known.
    assert prices.price("H100", at[0], instance="p5.48xlarge")[:2] == (2.5, 8)
    assert prices.price("", NOW, instance="dgx") == (2.0, 8, "priced")
    assert prices.hash != LIST.hash


def test_a_regional_price_of_ones_own_holds_only_there() -> None:
    prices = GpuPrices.load([own(instance="p5.48xlarge", gpus=8, usd_per_hour=80, region="eu-west-1")])
    assert prices.price("H100", NOW, instance="p5.48xlarge", region="eu-west-1").usd_per_gpu_hour == 10
    assert prices.price("H100", NOW, instance="p5.48xlarge", region="us-east-1").usd_per_gpu_hour == pytest.approx(6.88)


def test_listed_rows_change_on_their_day() -> None:
    rows = "aws,p9,X1,2,us-east-1,10,,s\naws,p9,X1,2,us-east-1,8,2026-02-01,s\naws,p9,X1,2,eu-west-1,12,,s\n"
    prices = GpuPrices(parse_offers(HEAD + rows))
    day = datetime(2026, 2, 1, tzinfo=UTC).timestamp()
    assert prices.price("X1", day - 1, instance="p9", region="us-east-1").usd_per_gpu_hour == 5
    assert prices.price("X1", day, instance="p9", region="us-east-1").usd_per_gpu_hour == 4
    assert prices.price("X1", day, instance="p9", region="eu-west-1").usd_per_gpu_hour == 6
    assert prices.price("X1", day, instance="p9", region="elsewhere").known == "priced"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("provider,gpu\n", "no column"),
        (HEAD + "aws,p9,X1,two,us,1,,s\n", "line 2"),
        (HEAD + "aws,p9,X1,2,us,nan,,s\n", "above 0"),
        (HEAD + "aws,p9,X1,2,us,1,soon,s\n", "line 2"),
        (HEAD, "no rows"),
    ],
)
def test_a_bad_list_says_where(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        GpuPrices(parse_offers(text))


def test_an_override_is_of_one_thing() -> None:
    for settings in ({"usd_per_hour": 1}, {"gpu": "H100", "instance": "p5", "usd_per_hour": 1}):
        with pytest.raises(ValidationError, match="either"):
            own(**settings)
