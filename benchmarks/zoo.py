"""timm's CNNs, about one of each family, that the benchmarks try everything on."""

from __future__ import annotations

#: Sides of images where a network does not take the usual ones.
SIDES = {"timm:levit_conv_128s": 224, "timm:visformer_tiny": 224, "inception_v3": 299}

_NAMES = """
resnet18 resnext50_32x4d resnet10t resnetv2_50 legacy_seresnet18 seresnext26d_32x4d skresnet18
ecaresnet26t resnest14d res2net50_26w_4s dpn68 densenet121 vgg11_bn inception_v4 mobilenetv1_100
mobilenetv2_100 mobilenetv3_small_100 mobilenetv4_conv_small mnasnet_small fbnetc_100 fbnetv3_b
spnasnet_100 efficientnet_b0 efficientnet_lite0 tf_efficientnetv2_b0 mixnet_s tinynet_e lcnet_050
hardcorenas_a ghostnet_100 ghostnetv2_100 regnetx_002 regnety_002 regnetz_005 rexnet_100
cspresnet50 cspdarknet53 darknet53 vovnet39a ese_vovnet19b_dw selecsls42 hrnet_w18_small dla34
xception41 gernet_s repvgg_a0 mobileone_s0 dm_nfnet_f0 nf_regnet_b0 eca_nfnet_l0 convnext_atto
convnextv2_atto edgenext_xx_small mobilevit_xxs mobilevitv2_050 efficientvit_b0 fasternet_t0
repghostnet_050 repvit_m0_9 starnet_s1 inception_next_atto poolformer_s12 hgnet_tiny hgnetv2_b0
mambaout_femto levit_conv_128s visformer_tiny tresnet_m
"""

TIMM = tuple(f"timm:{name}" for name in _NAMES.split())
