"""What processes of a pool are given to do. (They import this module: it needs no torch.)"""

import os
import time


def double(number):
    if number == 13:
        raise ValueError("unlucky")
    if number == 14:
        os._exit(3)
    if number == 15:
        time.sleep(60)
    return 2 * number
