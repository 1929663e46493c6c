LABELS = 9
class AugmentPipe:
    pass
