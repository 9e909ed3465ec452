"""The shapes of the trainable variables of two well-known models, without building them."""


def resnet50(classes=1000):
    """ResNet-50: 161 variables, 25.6 million weights."""
    shapes = [(7, 7, 3, 64), (64,), (64,)]
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            convolutions = [
                (1, 1, channels, width),
                (3, 3, width, width),
                (1, 1, width, 4 * width),
            ]
            if block == 0:
                convolutions.append((1, 1, channels, 4 * width))
            for shape in convolutions:
                shapes += [shape, shape[-1:], shape[-1:]]
            channels = 4 * width
    return [*shapes, (channels, classes), (classes,)]


def bert_large(vocabulary=30522, width=1024, layers=24, positions=512):
    """BERT-large with its pre-training heads: 398 variables, 336 million weights."""
    norm = [(width,), (width,)]
    dense = [(width, width), (width,)]
    shapes = [(vocabulary, width), (positions, width), (2, width), *norm]
    for _ in range(layers):
        shapes += [*dense * 4, *norm]
        shapes += [(width, 4 * width), (4 * width,), (4 * width, width), (width,), *norm]
    return [*shapes, *dense, *dense, *norm, (vocabulary,), (width, 2), (2,)]


MODELS = {"resnet50": resnet50, "bert_large": bert_large}
